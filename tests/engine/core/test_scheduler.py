"""Steps worked out by hand: budget, order, admission, preemption, endings, media, prefix cache."""

from __future__ import annotations

import pytest

from engine.core.blocks import BlockManager
from engine.core.plan import StepPlan
from engine.core.request import FinishReason, Output, Sample, SchedulerLimits, Step, StepResult, TokenLogprob
from engine.core.scheduler import Scheduler
from tests.engine.core.fakes import make_media, make_request

BLOCK = 4
EOS = 2
TOKEN = 9  # what the model draws unless a test says otherwise


def make_scheduler(
    *,
    step_tokens: int = 64,
    step_requests: int = 8,
    max_model_len: int = 100,
    num_blocks: int = 64,
    prefix_cache: bool = False,
    step_encodes: int = 1,
    mixed_step_tokens: int | None = None,
) -> Scheduler:
    blocks = BlockManager(num_blocks, BLOCK, enable_prefix_cache=prefix_cache)
    limits = SchedulerLimits(step_tokens, step_requests, max_model_len, mixed_step_tokens)
    return Scheduler(limits, blocks, step_encodes=step_encodes)


def next_step(scheduler: Scheduler) -> Step:
    step = scheduler.schedule()
    assert step is not None
    scheduler.check()
    return step


def commit(
    scheduler: Scheduler,
    step: Step,
    tokens: dict[int, int] | None = None,
    *,
    encoded: tuple[tuple[int, int], ...] = (),
    failed: tuple[tuple[int, str], ...] = (),
) -> dict[int, Output]:
    """The step's outputs by request, when `tokens` (else TOKEN) are drawn."""
    drawn = tokens or {}
    ids = [chunk.request_id for chunk in step.chunks if chunk.sample]
    samples = tuple(Sample(i, drawn.get(i, TOKEN)) for i in ids)
    outputs = scheduler.commit(step, StepResult(step.id, samples, encoded=encoded, failed=failed))
    scheduler.check()
    assert len({output.request_id for output in outputs}) == len(outputs)
    return {output.request_id: output for output in outputs}


def run_step(scheduler: Scheduler, tokens: dict[int, int] | None = None) -> tuple[Step, dict[int, Output]]:
    step = next_step(scheduler)
    return step, commit(scheduler, step, tokens)


def spans(step: Step) -> list[tuple[int, int, int]]:
    return [(chunk.request_id, chunk.start, chunk.count) for chunk in step.chunks]


def ids(step: Step) -> list[int]:
    return [chunk.request_id for chunk in step.chunks]


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


class TestEndings:
    @pytest.mark.parametrize(("max_tokens", "max_model_len", "num_blocks"), [(3, 100, 64), (50, 8, 64), (50, 100, 2)])
    def test_length_by_tokens_by_context_and_by_cache(
        self, max_tokens: int, max_model_len: int, num_blocks: int
    ) -> None:
        scheduler = make_scheduler(max_model_len=max_model_len, num_blocks=num_blocks)
        scheduler.submit(make_request(0, 5, max_tokens=max_tokens))
        finishes = [run_step(scheduler)[1][0].finish for _ in range(3)]
        assert finishes == [None, None, FinishReason.LENGTH]
        assert not scheduler.has_work

    def test_end_tokens_have_no_stop_id_and_stop_tokens_have(self) -> None:
        scheduler = make_scheduler()
        for i in range(2):
            scheduler.submit(make_request(i, 3, eos_token_ids=(EOS,), stop_token_ids=(5,)))
        _, outputs = run_step(scheduler, {0: EOS, 1: 5})
        assert [(outputs[i].tokens, outputs[i].finish, outputs[i].stop_token_id) for i in range(2)] == [
            ((EOS,), FinishReason.STOP, None),
            ((5,), FinishReason.STOP, 5),
        ]

    def test_no_stop_within_the_first_min_tokens(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 3, max_tokens=9, min_tokens=2, eos_token_ids=(EOS,)))
        finishes = [run_step(scheduler, {0: EOS})[1][0].finish for _ in range(3)]
        assert finishes == [None, None, FinishReason.STOP]

    def test_a_stop_at_the_last_token_is_a_stop(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 3, max_tokens=1, eos_token_ids=(EOS,)))
        assert run_step(scheduler, {0: EOS})[1][0].finish is FinishReason.STOP

    def test_nothing_to_draw_ends_with_the_prompt(self) -> None:
        scheduler = make_scheduler(step_tokens=8)
        scheduler.submit(make_request(0, 12, max_tokens=0))
        assert run_step(scheduler)[1] == {}
        step, outputs = run_step(scheduler)
        assert not step.chunks[0].sample
        assert (outputs[0].tokens, outputs[0].finish) == ((), FinishReason.LENGTH)

    def test_a_failed_request_ends_alone(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 3))
        scheduler.submit(make_request(1, 3))
        step = next_step(scheduler)
        result = StepResult(step.id, (Sample(1, TOKEN),), failed=((0, "no memory"), (77, "unknown")))
        failed, ok = sorted(scheduler.commit(step, result), key=lambda output: output.request_id)
        assert (failed.finish, failed.error, ok.finish) == (FinishReason.ERROR, "no memory", None)
        assert next_step(scheduler).dropped == (0,)

    def test_fail_all_ends_each_open_request_once(self) -> None:
        scheduler = make_scheduler(step_requests=2)
        for i in range(4):
            scheduler.submit(make_request(i, 3, eos_token_ids=(EOS,)))
        first = next_step(scheduler)
        next_step(scheduler)
        commit(scheduler, first, {0: EOS})
        outputs = scheduler.fail_all("the worker died")
        assert sorted((o.request_id, o.finish, o.error) for o in outputs) == [
            (i, FinishReason.ERROR, "the worker died") for i in (1, 2, 3)
        ]
        assert not scheduler.has_work
        scheduler.check()
        assert scheduler.stats().num_free_blocks == 64


class TestAbort:
    def test_while_waiting(self) -> None:
        scheduler = make_scheduler(step_requests=1)
        for i in range(3):
            scheduler.submit(make_request(i, 3, max_tokens=1))
        output = scheduler.abort(1)
        assert output is not None
        assert output.finish is FinishReason.ABORT
        steps = [run_step(scheduler)[0] for _ in range(2)]
        assert [(ids(step), step.dropped) for step in steps] == [([0], ()), ([2], (0,))]

    def test_between_steps(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 9))
        scheduler.submit(make_request(1, 3))
        run_step(scheduler)
        scheduler.abort(0)
        scheduler.check()
        assert scheduler.stats().num_free_blocks == 63
        step, _ = run_step(scheduler)
        assert (ids(step), step.dropped) == ([1], (0,))

    def test_in_flight(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 9))
        step = next_step(scheduler)
        scheduler.abort(0)
        assert scheduler.stats().num_free_blocks == 61
        assert commit(scheduler, step) == {}
        assert scheduler.stats().num_free_blocks == 64
        assert not scheduler.has_work

    def test_twice_and_unknown_do_nothing(self) -> None:
        scheduler = make_scheduler()
        scheduler.submit(make_request(0, 9))
        next_step(scheduler)
        assert scheduler.abort(0) is not None
        assert scheduler.abort(0) is None
        assert scheduler.abort(5) is None


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
