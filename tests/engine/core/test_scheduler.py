"""Steps worked out by hand: budget, order, tables, steps in flight, admission."""

from __future__ import annotations

import pytest

from engine.core.plan import StepPlan
from engine.core.request import FinishReason
from tests.engine.core.fakes import make_request
from tests.engine.core.scheduling import EOS, TOKEN, commit, ids, make_scheduler, next_step, run_step, spans


class TestBudget:
    def test_a_long_prompt_runs_in_chunks_and_draws_after_the_last(self) -> None:
        scheduler = make_scheduler(step_tokens=8)
        scheduler.submit(make_request(0, 18))
        steps = [run_step(scheduler)[0] for _ in range(4)]
        assert [spans(step) for step in steps] == [[(0, 0, 8)], [(0, 8, 8)], [(0, 16, 2)], [(0, 18, 1)]]
        assert [step.chunks[0].sample for step in steps] == [False, False, True, True]

    def test_decodes_come_first_then_prompts_under_way_then_new_ones(self) -> None:
        scheduler = make_scheduler(step_tokens=8)
        scheduler.submit(make_request(0, 12))
        run_step(scheduler)
        scheduler.submit(make_request(1, 2))
        assert spans(run_step(scheduler)[0]) == [(0, 8, 4), (1, 0, 2)]
        scheduler.submit(make_request(2, 10))
        scheduler.submit(make_request(3, 5))
        assert spans(run_step(scheduler)[0]) == [(0, 12, 1), (1, 2, 1), (2, 0, 6)]
        assert spans(run_step(scheduler)[0]) == [(0, 13, 1), (1, 3, 1), (2, 6, 4), (3, 0, 2)]

    def test_an_older_prompt_does_not_go_before_a_younger_decode(self) -> None:
        scheduler = make_scheduler(step_tokens=4)
        scheduler.submit(make_request(0, 3))
        scheduler.submit(make_request(1, 9))
        run_step(scheduler)
        assert spans(run_step(scheduler)[0]) == [(0, 3, 1), (1, 1, 3)]

    def test_prompts_take_large_steps_until_a_stream_decodes(self) -> None:
        scheduler = make_scheduler(step_tokens=16, mixed_step_tokens=6)
        scheduler.submit(make_request(0, 20, max_tokens=3))
        assert spans(run_step(scheduler)[0]) == [(0, 0, 16)]
        scheduler.submit(make_request(1, 30))
        assert spans(run_step(scheduler)[0]) == [(0, 16, 4), (1, 0, 12)]  # nothing decodes yet
        assert spans(run_step(scheduler)[0]) == [(0, 20, 1), (1, 12, 5)]  # request 0 waits for 6 tokens, not for 16
        assert spans(run_step(scheduler)[0]) == [(0, 21, 1), (1, 17, 5)]
        assert spans(run_step(scheduler)[0]) == [(1, 22, 8)]  # it has ended

    def test_the_budget_of_prompts_can_change_between_steps(self) -> None:
        scheduler = make_scheduler(step_tokens=16, mixed_step_tokens=6)
        scheduler.submit(make_request(0, 60, max_tokens=9))
        assert spans(run_step(scheduler)[0]) == [(0, 0, 16)]
        scheduler.set_step_tokens(40)
        assert spans(run_step(scheduler)[0]) == [(0, 16, 40)]
        run_step(scheduler)
        scheduler.submit(make_request(1, 9))
        assert spans(run_step(scheduler)[0]) == [(0, 60, 1), (1, 0, 5)]  # what streams wait for is as it was

    def test_a_small_budget_leaves_no_trace_in_a_larger_one(self) -> None:
        """What streams wait for and how many may be started follow the budget down, and up again to what was set."""
        scheduler = make_scheduler(step_tokens=16, mixed_step_tokens=6)
        scheduler.set_step_tokens(4)
        for i in range(6):
            scheduler.submit(make_request(i, 1, max_tokens=2 if i < 4 else 3))
        assert ids(run_step(scheduler)[0]) == [0, 1, 2, 3]
        assert ids(run_step(scheduler)[0]) == [0, 1, 2, 3]
        scheduler.set_step_tokens(64)
        scheduler.submit(make_request(6, 40))
        assert spans(run_step(scheduler)[0]) == [(4, 0, 1), (5, 0, 1), (6, 0, 40)]
        scheduler.submit(make_request(7, 40))
        assert spans(run_step(scheduler)[0]) == [(4, 1, 1), (5, 1, 1), (6, 40, 1), (7, 0, 3)]  # 6 again, not 4

    def test_one_budget_for_all_steps_moves_as_a_whole(self) -> None:
        scheduler = make_scheduler(step_tokens=4)
        scheduler.set_step_tokens(8)
        scheduler.submit(make_request(0, 2))
        run_step(scheduler)
        scheduler.submit(make_request(1, 20))
        assert spans(run_step(scheduler)[0]) == [(0, 2, 1), (1, 0, 7)]

    def test_a_budget_below_what_is_started_is_refused(self) -> None:
        scheduler = make_scheduler(step_tokens=16)
        for i in range(3):
            scheduler.submit(make_request(i, 2))
        run_step(scheduler)
        with pytest.raises(ValueError, match="steps of 2 tokens are too small: 3 requests are started"):
            scheduler.set_step_tokens(2)
        assert ids(run_step(scheduler)[0]) == [0, 1, 2]
        scheduler.set_step_tokens(3)
        scheduler.submit(make_request(3, 2))
        assert ids(run_step(scheduler)[0]) == [0, 1, 2]

    def test_nothing_is_started_behind_a_budget_that_is_overdrawn(self) -> None:
        """It would be started without a chunk, beside more decodes than a step has room for."""
        scheduler = make_scheduler(step_tokens=16)
        for i in range(3):
            scheduler.submit(make_request(i, 2))
        run_step(scheduler)
        plan = StepPlan(16)
        scheduler._schedule_running(plan)
        plan.limit(2)
        assert plan.budget == -1
        plan.limit(9)
        assert plan.budget == -1, "a limit lowers"
        scheduler.submit(make_request(3, 2))
        scheduler._start_waiting(plan)
        assert scheduler.stats().num_waiting == 1
        scheduler.check()

    def test_a_stream_whose_step_is_in_flight_counts_as_decoding(self) -> None:
        scheduler = make_scheduler(step_tokens=16, mixed_step_tokens=6)
        scheduler.submit(make_request(0, 4))
        scheduler.submit(make_request(1, 40))
        first, second = next_step(scheduler), next_step(scheduler)
        assert (spans(first), spans(second)) == ([(0, 0, 4), (1, 0, 12)], [(0, 4, 1), (1, 12, 5)])

    def test_no_more_streams_run_than_decode_in_one_step(self) -> None:
        scheduler = make_scheduler(step_tokens=64, mixed_step_tokens=2)
        for i in range(3):
            scheduler.submit(make_request(i, 2, max_tokens=3))
        assert ids(run_step(scheduler)[0]) == [0, 1]
        assert ids(run_step(scheduler)[0]) == [0, 1]

    def test_no_more_requests_are_started_than_the_runner_has_room_for(self) -> None:
        scheduler = make_scheduler(step_requests=2)
        for i in range(3):
            scheduler.submit(make_request(i, 3, max_tokens=2))
        assert ids(run_step(scheduler)[0]) == [0, 1]
        assert ids(run_step(scheduler)[0]) == [0, 1]  # both end here
        step, _ = run_step(scheduler)
        assert (ids(step), step.dropped) == ([2], (0, 1))

    def test_nothing_to_do_is_no_step(self) -> None:
        scheduler = make_scheduler()
        assert scheduler.schedule() is None
        assert not scheduler.has_work


class TestTables:
    def test_a_table_travels_in_pieces(self) -> None:
        scheduler = make_scheduler(step_tokens=8)
        scheduler.submit(make_request(0, 11, max_tokens=4))
        chunks = [run_step(scheduler)[0].chunks[0] for _ in range(5)]
        assert [(chunk.table_start, len(chunk.new_blocks)) for chunk in chunks] == [
            (0, 3),
            (3, 0),
            (3, 0),
            (3, 1),
            (4, 0),
        ]

    def test_requests_travel_once(self) -> None:
        scheduler = make_scheduler(step_tokens=8)
        request = make_request(0, 11)
        scheduler.submit(request)
        assert [run_step(scheduler)[0].new for _ in range(3)] == [(request,), (), ()]


class TestInFlight:
    def test_the_next_step_uses_a_token_that_is_not_drawn_yet(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 5))
        first, second = next_step(scheduler), next_step(scheduler)
        assert (spans(first), spans(second)) == ([(0, 0, 5)], [(0, 5, 1)])
        assert commit(scheduler, first)[0].tokens == (TOKEN,)
        assert commit(scheduler, second, {0: 7})[0].tokens == (7,)

    def test_nothing_is_scheduled_beyond_the_last_token(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 5, max_tokens=2))
        first, second = next_step(scheduler), next_step(scheduler)
        assert scheduler.schedule() is None
        assert commit(scheduler, first)[0].finish is None
        assert scheduler.schedule() is None
        assert commit(scheduler, second)[0].finish is FinishReason.LENGTH

    def test_a_stop_discards_what_is_under_way_and_keeps_its_blocks_meanwhile(self) -> None:
        scheduler = make_scheduler(num_blocks=4)
        scheduler.submit(make_request(0, 7, max_tokens=9, eos_token_ids=(EOS,)))
        scheduler.submit(make_request(1, 3, max_tokens=9))
        first, second = next_step(scheduler), next_step(scheduler)
        assert commit(scheduler, first, {0: EOS})[0].finish is FinishReason.STOP
        assert scheduler.stats().num_free_blocks == 1  # two of request 0, one of request 1
        third = next_step(scheduler)
        assert (ids(third), third.dropped) == ([1], ())
        assert list(commit(scheduler, second)) == [1]
        assert scheduler.stats().num_free_blocks == 2  # request 1 took a second block
        commit(scheduler, third)
        assert next_step(scheduler).dropped == (0,)
        assert scheduler.stats().generation_tokens == 4

    def test_a_request_that_ended_in_flight_keeps_its_place_in_the_runner(self) -> None:
        scheduler = make_scheduler(step_requests=2)
        for i in range(3):
            scheduler.submit(make_request(i, 3, max_tokens=9, eos_token_ids=(EOS,)))
        first, second = next_step(scheduler), next_step(scheduler)
        commit(scheduler, first, {0: EOS})
        third = next_step(scheduler)
        assert (ids(third), third.dropped) == ([1], ())
        commit(scheduler, second)
        fourth = next_step(scheduler)
        assert (ids(fourth), fourth.dropped) == ([1, 2], (0,))

    def test_steps_are_committed_in_order(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 5))
        next_step(scheduler)
        with pytest.raises(AssertionError, match="in order"):
            commit(scheduler, next_step(scheduler))


class TestAdmission:
    def test_tenants_take_turns_and_keep_their_own_order(self) -> None:
        scheduler = make_scheduler(step_requests=1)
        for i, tenant in enumerate("aaabbc"):
            scheduler.submit(make_request(i, 3, max_tokens=1, tenant=tenant))
        assert [ids(run_step(scheduler)[0]) for _ in range(6)] == [[0], [3], [5], [1], [4], [2]]

    def test_a_tenant_that_comes_later_is_next_after_those_in_the_round(self) -> None:
        scheduler = make_scheduler(step_requests=1)
        for i, tenant in enumerate("aab"):
            scheduler.submit(make_request(i, 3, max_tokens=1, tenant=tenant))
        assert ids(run_step(scheduler)[0]) == [0]
        scheduler.submit(make_request(3, 3, max_tokens=1, tenant="c"))
        assert [ids(run_step(scheduler)[0]) for _ in range(3)] == [[2], [1], [3]]

    def test_nothing_overtakes_a_prompt_that_finds_no_blocks(self) -> None:
        scheduler = make_scheduler(num_blocks=6)
        scheduler.submit(make_request(0, 12, max_tokens=2))
        scheduler.submit(make_request(1, 16, max_tokens=1))
        scheduler.submit(make_request(2, 2, max_tokens=1))
        assert [ids(run_step(scheduler)[0]) for _ in range(3)] == [[0], [0], [1, 2]]

    def test_a_block_for_each_running_request_stays_free(self) -> None:
        scheduler = make_scheduler(num_blocks=4)
        for i in range(3):
            scheduler.submit(make_request(i, 4, max_tokens=9))
        # The first takes one of four; the second leaves two, one is spare; the third would leave one of two.
        assert ids(next_step(scheduler)) == [0, 1]

    @pytest.mark.parametrize(
        ("num_prompt", "max_tokens", "words"),
        [
            (0, 4, "empty"),
            (20, 1, "20 tokens"),
            (21, 0, "21 tokens"),
            (500, 4, "prompt and answer together can have 20"),
        ],
    )
    def test_a_prompt_that_cannot_fit_the_model_is_refused(self, num_prompt: int, max_tokens: int, words: str) -> None:
        scheduler = make_scheduler(max_model_len=20)
        output = scheduler.submit(make_request(0, num_prompt, max_tokens=max_tokens))
        assert output is not None
        assert output.finish is FinishReason.ERROR
        assert words in (output.error or "")
        assert not scheduler.has_work

    def test_a_prompt_that_cannot_fit_the_cache_is_refused(self) -> None:
        scheduler = make_scheduler(num_blocks=3)
        assert scheduler.submit(make_request(0, 11, max_tokens=50)) is None
        output = scheduler.submit(make_request(1, 12, max_tokens=1))
        assert output is not None
        assert "the KV cache has room for 12" in (output.error or "")


def test_stats_count_each_prompt_once_and_each_token_put_out() -> None:
    scheduler = make_scheduler(num_blocks=4)
    scheduler.submit(make_request(0, 5, max_tokens=5))
    scheduler.submit(make_request(1, 3, max_tokens=6))
    stats = scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (0, 2, 4)
    run_step(scheduler)
    stats = scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks) == (2, 0, 1)
    while scheduler.has_work:
        run_step(scheduler)
    stats = scheduler.stats()
    assert (stats.prompt_tokens, stats.generation_tokens, stats.preemptions) == (8, 11, 1)
    assert (stats.num_running, stats.num_waiting, stats.num_free_blocks, stats.num_blocks) == (0, 0, 4, 4)
