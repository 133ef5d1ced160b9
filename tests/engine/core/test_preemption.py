"""Who gives way when blocks run out, and how it starts over, by hand."""

from __future__ import annotations

from engine.core.request import FinishReason, Sample, Step, StepResult, TokenLogprob
from tests.engine.core.fakes import make_media, make_request
from tests.engine.core.scheduling import EOS, TOKEN, commit, ids, make_scheduler, next_step, run_step, spans


class TestPreemption:
    def test_the_youngest_gives_way_and_starts_over_with_its_tokens(self) -> None:
        scheduler = make_scheduler(num_blocks=5)
        third = make_request(2, 3, max_tokens=3)
        scheduler.submit(make_request(0, 7, max_tokens=9))
        scheduler.submit(make_request(1, 3, max_tokens=9))
        scheduler.submit(third)
        assert spans(run_step(scheduler)[0]) == [(0, 0, 7), (1, 0, 3)]  # the third would leave one block for two
        for i in range(5):
            assert spans(run_step(scheduler)[0]) == [(0, 7 + i, 1), (1, 3 + i, 1)]
        # All five blocks are held: three by request 0, whose position 12 begins a fourth, two by request 1.
        for i in range(3):
            assert spans(run_step(scheduler)[0]) == [(0, 12 + i, 1)]
        step = next_step(scheduler)
        assert spans(step) == [(1, 0, 9), (2, 0, 3)]  # three prompt tokens and six drawn
        assert (step.new, step.dropped) == ((third,), (0,))
        assert (step.chunks[0].table_start, len(step.chunks[0].new_blocks)) == (0, 3)
        assert scheduler.stats().preemptions == 1

    def test_a_victim_in_flight_keeps_its_blocks_until_its_token_is_in(self) -> None:
        scheduler = make_scheduler(num_blocks=4)
        scheduler.submit(make_request(0, 5, max_tokens=9))
        scheduler.submit(make_request(1, 3, max_tokens=9))
        for _ in range(3):
            run_step(scheduler)
        last = next_step(scheduler)
        assert spans(last) == [(0, 7, 1), (1, 5, 1)]
        # Position 8 of request 0 needs a fifth block; request 1 gives its two, but not yet.
        assert scheduler.schedule() is None
        assert scheduler.stats().num_free_blocks == 0
        assert commit(scheduler, last)[1].tokens == (TOKEN,)
        assert scheduler.stats().num_free_blocks == 2
        assert spans(next_step(scheduler)) == [(0, 8, 1)]

    def test_blocks_on_their_way_spare_further_victims(self) -> None:
        scheduler = make_scheduler(num_blocks=6)
        for i, num_prompt in enumerate((5, 3, 3)):
            scheduler.submit(make_request(i, num_prompt, max_tokens=9))
        for _ in range(3):
            assert ids(run_step(scheduler)[0]) == [0, 1, 2]
        last = next_step(scheduler)
        assert spans(last) == [(0, 7, 1), (1, 5, 1), (2, 5, 1)]
        # Position 8 of request 0 needs a block; those of request 2 are promised, so request 1 goes on.
        assert spans(next_step(scheduler)) == [(1, 6, 1)]
        assert scheduler.stats().preemptions == 1
        commit(scheduler, last)
        assert spans(next_step(scheduler)) == [(0, 8, 1), (1, 7, 1)]

    def test_a_victim_in_flight_is_not_started_over(self) -> None:
        scheduler = make_scheduler(num_blocks=10)
        scheduler.submit(make_request(0, 20, media=(make_media(0, 4),)))
        scheduler.submit(make_request(1, 5, max_tokens=9))
        scheduler.submit(make_request(2, 1, max_tokens=20))
        for _ in range(7):
            run_step(scheduler)
        last = next_step(scheduler)
        assert spans(last) == [(1, 11, 1), (2, 7, 1)]
        # Both need a block; then the five of request 0, which waits for its picture, are free.
        assert scheduler.schedule() is None
        scheduler.abort(0)
        second = next_step(scheduler)
        assert spans(second) == [(1, 12, 1)]
        commit(scheduler, last)
        assert spans(next_step(scheduler)) == [(2, 0, 9)]

    def test_a_victim_whose_token_in_flight_ends_it_does_not_come_back(self) -> None:
        scheduler = make_scheduler(num_blocks=4)
        scheduler.submit(make_request(0, 5, max_tokens=5))
        scheduler.submit(make_request(1, 3, max_tokens=9, eos_token_ids=(EOS,)))
        for _ in range(3):
            run_step(scheduler)
        last = next_step(scheduler)
        assert scheduler.schedule() is None
        assert commit(scheduler, last, {1: EOS})[1].finish is FinishReason.STOP
        step, outputs = run_step(scheduler)
        assert (spans(step), step.dropped) == ([(0, 8, 1)], (1,))
        assert outputs[0].finish is FinishReason.LENGTH
        assert not scheduler.has_work

    def test_victims_come_back_oldest_first_and_nothing_overtakes_them(self) -> None:
        scheduler = make_scheduler(num_blocks=5)
        scheduler.submit(make_request(0, 3, max_tokens=12))
        scheduler.submit(make_request(1, 3, max_tokens=8))
        scheduler.submit(make_request(2, 3, max_tokens=8))
        for _ in range(2):
            assert ids(run_step(scheduler)[0]) == [0, 1, 2]
        for _ in range(4):  # the two blocks that were left went to the older ones; 2 has to wait
            assert ids(run_step(scheduler)[0]) == [0, 1]
        for _ in range(4):  # request 0 takes the block of 2, request 1 has to wait
            assert ids(run_step(scheduler)[0]) == [0]
        assert scheduler.stats().preemptions == 1
        scheduler.submit(make_request(3, 1, max_tokens=1))
        for _ in range(2):  # request 0 takes a block of 1; one is left, which 3 must not have
            assert ids(run_step(scheduler)[0]) == [0]
        assert scheduler.stats().preemptions == 2
        assert spans(run_step(scheduler)[0]) == [(1, 0, 9)]
        assert spans(run_step(scheduler)[0]) == [(1, 9, 1)]
        assert spans(run_step(scheduler)[0]) == [(2, 0, 5), (3, 0, 1)]

    def test_a_preempted_request_can_be_aborted(self) -> None:
        scheduler = make_scheduler(num_blocks=4)
        scheduler.submit(make_request(0, 5, max_tokens=9))
        scheduler.submit(make_request(1, 3, max_tokens=9))
        for _ in range(4):
            run_step(scheduler)
        assert ids(run_step(scheduler)[0]) == [0]
        assert scheduler.abort(1) is not None
        scheduler.check()
        assert run_step(scheduler)[0].dropped == (1,)

    def test_prompt_logprobs_are_put_out_once(self) -> None:
        scheduler = make_scheduler(num_blocks=4)
        scheduler.submit(make_request(0, 5, max_tokens=9))
        scheduler.submit(make_request(1, 3, max_tokens=9, prompt_logprobs=0))
        scores = tuple(TokenLogprob(i, -1.0, ()) for i in (1, 2))

        def score(step: Step) -> list[tuple[TokenLogprob, ...]]:
            chunks = [chunk for chunk in step.chunks if chunk.request_id == 1 and chunk.start == 0]
            samples = tuple(Sample(chunk.request_id, TOKEN) for chunk in step.chunks)
            result = StepResult(step.id, samples, prompt_logprobs=tuple((1, scores) for _ in chunks))
            return [o.prompt_logprobs for o in scheduler.commit(step, result) if o.request_id == 1]

        seen = []
        while scheduler.has_work:
            seen += score(next_step(scheduler))
        assert scheduler.stats().preemptions == 1
        assert [entries for entries in seen if entries] == [scores]
