"""How requests end: by a stop, at their length, by failure or by their client, by hand."""

from __future__ import annotations

import pytest

from engine.core.request import FinishReason, Sample, StepResult
from tests.engine.core.fakes import make_request
from tests.engine.core.scheduling import EOS, TOKEN, commit, ids, make_scheduler, next_step, run_step


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
