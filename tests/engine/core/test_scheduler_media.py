"""Media in the prompt: what waits for an encoder and what goes on meanwhile, by hand."""

from __future__ import annotations

from engine.core.request import FinishReason
from tests.engine.core.fakes import make_media, make_request
from tests.engine.core.scheduling import commit, ids, make_scheduler, next_step, run_step, spans


class TestMedia:
    def test_a_chunk_ends_in_front_of_a_span_until_it_is_encoded(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 12, media=(make_media(5, 4),)))
        step = next_step(scheduler)
        assert (spans(step), step.encode, step.chunks[0].sample) == ([(0, 0, 5)], ((0, 0),), False)
        commit(scheduler, step, encoded=((0, 0),))
        step = next_step(scheduler)
        assert (spans(step), step.encode, step.chunks[0].sample) == ([(0, 5, 7)], (), True)

    def test_a_chunk_may_end_within_a_span(self) -> None:
        scheduler = make_scheduler(step_tokens=4)
        scheduler.submit(make_request(0, 8, media=(make_media(1, 6),)))
        commit(scheduler, next_step(scheduler), encoded=((0, 0),))
        assert [spans(run_step(scheduler)[0]) for _ in range(2)] == [[(0, 1, 4)], [(0, 5, 3)]]

    def test_decodes_go_on_meanwhile(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 3))
        run_step(scheduler)
        scheduler.submit(make_request(1, 6, media=(make_media(0, 4),)))
        step, _ = run_step(scheduler)
        assert (ids(step), step.encode, [request.id for request in step.new]) == ([0], ((1, 0),), [1])
        step = next_step(scheduler)
        assert spans(step) == [(0, 4, 1)]
        commit(scheduler, step, encoded=((1, 0),))
        assert spans(next_step(scheduler)) == [(0, 5, 1), (1, 0, 6)]

    def test_an_empty_step_waits_when_only_encodes_are_left(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 6, media=(make_media(0, 4),)))
        step = next_step(scheduler)
        assert (step.chunks, step.encode, step.wait) == ((), ((0, 0),), False)
        assert scheduler.schedule() is None  # a step is in flight, its result may bring the features
        commit(scheduler, step)
        step = next_step(scheduler)
        assert (step.chunks, step.encode, step.wait) == ((), (), True)
        commit(scheduler, step, encoded=((0, 0),))
        step = next_step(scheduler)
        assert (spans(step), step.wait) == ([(0, 0, 6)], False)

    def test_oldest_first_one_per_request_and_so_many_per_step(self) -> None:
        scheduler = make_scheduler(step_encodes=2)
        two = (make_media(1, 2, b"a"), make_media(4, 2, b"b"))
        for i in range(3):
            scheduler.submit(make_request(i, 8, media=two))
        encodes = [run_step(scheduler)[0].encode for _ in range(4)]
        assert encodes == [((0, 0), (1, 0)), ((0, 1), (1, 1)), ((2, 0),), ((2, 1),)]

    def test_results_for_a_request_that_ended_are_ignored(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 6, media=(make_media(0, 4),)))
        scheduler.submit(make_request(1, 3))
        run_step(scheduler)
        scheduler.abort(0)
        assert list(commit(scheduler, next_step(scheduler), encoded=((0, 0),))) == [1]

    def test_a_failed_encode_ends_the_request(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 6, media=(make_media(0, 4),)))
        outputs = commit(scheduler, next_step(scheduler), failed=((0, "the encoder ran out of memory"),))
        assert (outputs[0].finish, outputs[0].error) == (FinishReason.ERROR, "the encoder ran out of memory")
        assert scheduler.stats().num_free_blocks == 64
        assert not scheduler.has_work
