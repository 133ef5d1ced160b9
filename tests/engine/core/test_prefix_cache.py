"""What the scheduler finds of a prompt in the prefix cache, by hand."""

from __future__ import annotations

from engine.core.request import FinishReason
from tests.engine.core.fakes import make_media, make_request
from tests.engine.core.scheduling import commit, ids, make_scheduler, next_step, run_step, spans


class TestPrefixCache:
    PROMPT = tuple(range(100, 112))  # three blocks

    def test_full_blocks_are_shared_except_the_one_with_the_last_token(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        scheduler.submit(make_request(0, self.PROMPT))
        run_step(scheduler)
        scheduler.submit(make_request(1, self.PROMPT))
        scheduler.submit(make_request(2, (*self.PROMPT[:8], 1, 2, 3, 4, 5)))
        scheduler.submit(make_request(3, (*self.PROMPT, 5)))
        step, outputs = run_step(scheduler)
        assert spans(step) == [(0, 12, 1), (1, 8, 4), (2, 8, 5), (3, 12, 1)]
        assert [outputs[i].cached_tokens for i in range(4)] == [0, 8, 8, 12]
        stats = scheduler.stats()
        assert (stats.prefix_queries, stats.prefix_hits) == (12 + 12 + 13 + 13, 28)

    def test_a_block_is_found_once_its_step_is_committed(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        scheduler.submit(make_request(0, self.PROMPT))
        first = next_step(scheduler)
        scheduler.submit(make_request(1, self.PROMPT))
        second = next_step(scheduler)
        assert spans(second) == [(0, 12, 1), (1, 0, 12)]
        commit(scheduler, first)
        commit(scheduler, second)

    def test_a_block_is_found_only_when_its_last_token_is_computed(self) -> None:
        scheduler = make_scheduler(step_tokens=7, prefix_cache=True)
        scheduler.submit(make_request(0, self.PROMPT))
        run_step(scheduler)
        scheduler.submit(make_request(1, self.PROMPT))
        assert spans(run_step(scheduler)[0]) == [(0, 7, 5), (1, 4, 2)]

    def test_answers_are_found_too(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        scheduler.submit(make_request(0, self.PROMPT[:6], max_tokens=4))
        while scheduler.has_work:
            run_step(scheduler, {0: 7})
        scheduler.submit(make_request(1, (*self.PROMPT[:6], 7, 7, 7, 7)))
        assert spans(run_step(scheduler)[0]) == [(1, 8, 2)]

    def test_a_failed_step_publishes_nothing(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        scheduler.submit(make_request(0, self.PROMPT))
        commit(scheduler, next_step(scheduler), failed=((0, "no"),))
        scheduler.submit(make_request(1, self.PROMPT))
        assert spans(run_step(scheduler)[0]) == [(1, 0, 12)]

    def test_scoring_a_prompt_computes_all_of_it(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        scheduler.submit(make_request(0, self.PROMPT))
        run_step(scheduler)
        scheduler.submit(make_request(1, self.PROMPT, prompt_logprobs=1))
        assert spans(run_step(scheduler)[0]) == [(0, 12, 1), (1, 0, 12)]
        assert scheduler.stats().prefix_queries == 12

    def test_off_means_off(self) -> None:
        scheduler = make_scheduler(prefix_cache=False)
        for i in range(2):
            scheduler.submit(make_request(i, self.PROMPT))
            assert run_step(scheduler)[0].chunks[-1].count == 12
        assert scheduler.stats().prefix_queries == 0

    def test_a_preempted_request_finds_its_own_blocks(self) -> None:
        scheduler = make_scheduler(num_blocks=4, prefix_cache=True)
        scheduler.submit(make_request(0, 5, max_tokens=5))
        scheduler.submit(make_request(1, 3, max_tokens=9))
        for _ in range(4):
            run_step(scheduler)
        step, outputs = run_step(scheduler)  # request 0 takes the second block of request 1 and ends
        assert (spans(step), outputs[0].finish) == ([(0, 8, 1)], FinishReason.LENGTH)
        step, outputs = run_step(scheduler)
        assert spans(step) == [(1, 4, 3)]
        assert outputs[1].cached_tokens == 0  # what it had computed itself is no cached prompt
        assert scheduler.stats().prefix_hits == 0

    def test_media_that_are_covered_are_not_encoded(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        media = (make_media(2, 4, b"a"), make_media(7, 3, b"b"))
        scheduler.submit(make_request(0, self.PROMPT, media=media))
        step = next_step(scheduler)
        commit(scheduler, step, encoded=((0, 0),))
        commit(scheduler, next_step(scheduler), encoded=((0, 1),))
        run_step(scheduler)
        scheduler.submit(make_request(1, self.PROMPT, media=media))
        step = next_step(scheduler)
        # Eight tokens are found: all of the first span, one token of the second.
        assert (ids(step), step.encode) == ([0], ((1, 1),))
        commit(scheduler, step, encoded=((1, 1),))
        assert spans(next_step(scheduler)) == [(0, 13, 1), (1, 8, 4)]

    def test_other_media_under_the_same_tokens_are_not_shared(self) -> None:
        scheduler = make_scheduler(prefix_cache=True)
        for i, digest in enumerate((b"cat", b"dog")):
            scheduler.submit(make_request(i, self.PROMPT, media=(make_media(5, 2, digest),)))
            commit(scheduler, next_step(scheduler), encoded=((i, 0),))
            run_step(scheduler)
        assert scheduler.stats().prefix_hits == 4  # the first block, in front of the picture
