"""The loop between scheduler and runner: order of calls, times, endings between steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from engine.core.blocks import BlockManager
from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, Output, SchedulerLimits, Step, StepResult
from engine.core.scheduler import Scheduler
from engine.errors import WorkerDied
from tests.engine.core.fakes import FakeRunner, answer_alone, make_media, make_request


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Recorder:
    """Passes everything on to `runner` and notes the order; each collect takes a second."""

    runner: FakeRunner
    clock: Clock
    calls: list[str] = field(default_factory=list)
    is_dead: bool = False

    def submit(self, step: Step) -> None:
        self.calls.append(f"submit {step.id}")
        self.runner.submit(step)

    def collect(self) -> StepResult:
        if self.is_dead:
            raise WorkerDied("rank 0 ended with signal 9")
        self.clock.now_s += 1
        result = self.runner.collect()
        self.calls.append(f"collect {result.step_id}")
        return result


class Bench:
    def __init__(self, *, overlap: bool = True, step_tokens: int = 64, step_requests: int = 8) -> None:
        self.clock = Clock()
        self.recorder = Recorder(FakeRunner(4, step_requests), self.clock)
        limits = SchedulerLimits(step_tokens, step_requests, max_model_len=100)
        scheduler = Scheduler(limits, BlockManager(64, 4))
        self.loop = EngineLoop(scheduler, self.recorder, self.clock, overlap=overlap)

    def run(self) -> dict[int, Output]:
        """Run until nothing is left; the terminal output of each request."""
        terminal: dict[int, Output] = {}
        for _ in range(200):
            if not self.loop.has_work:
                return terminal
            for output in self.loop.run_once():
                if output.finish is not None:
                    assert output.request_id not in terminal
                    terminal[output.request_id] = output
        raise AssertionError("the loop does not come to an end")


def test_with_overlap_the_next_step_is_submitted_before_the_first_is_collected() -> None:
    bench = Bench()
    bench.loop.submit(make_request(0, 3, max_tokens=3))
    bench.run()
    assert bench.recorder.calls == ["submit 0", "submit 1", "collect 0", "submit 2", "collect 1", "collect 2"]


def test_without_overlap_each_step_is_collected_before_the_next() -> None:
    bench = Bench(overlap=False)
    bench.loop.submit(make_request(0, 3, max_tokens=2))
    bench.run()
    assert bench.recorder.calls == ["submit 0", "collect 0", "submit 1", "collect 1"]


def test_idle_loop_does_nothing() -> None:
    bench = Bench()
    assert not bench.loop.has_work
    assert bench.loop.run_once() == ()
    assert bench.recorder.calls == []


@pytest.mark.parametrize("overlap", [False, True])
def test_tokens_come_in_order_and_equal_those_drawn(overlap: bool) -> None:
    bench = Bench(overlap=overlap)
    request = make_request(0, 9, max_tokens=7)
    bench.loop.submit(request)
    tokens: list[int] = []
    while bench.loop.has_work:
        for output in bench.loop.run_once():
            tokens += output.tokens
    assert tuple(tokens) == answer_alone(request, 100).tokens


def test_times_of_a_request_that_waits_for_a_place_and_needs_two_steps() -> None:
    bench = Bench(overlap=False, step_tokens=8, step_requests=1)
    bench.loop.submit(make_request(0, 3, max_tokens=2))
    bench.loop.submit(make_request(1, 12, max_tokens=3))
    terminal = bench.run()
    # Steps of a second: two for the first request; then the second one's prompt takes two.
    assert (terminal[0].queue_s, terminal[0].prefill_s) == (0.0, 1.0)
    assert (terminal[1].queue_s, terminal[1].prefill_s) == (2.0, 2.0)


def test_times_are_told_with_the_first_token_too() -> None:
    """A stop string ends a request outside of the engine: its last output is never read."""
    bench = Bench(overlap=False, step_tokens=8)
    bench.loop.submit(make_request(0, 12, max_tokens=3))
    outputs = [output for _ in range(4) for output in bench.loop.run_once()]
    told = [(output.queue_s, output.prefill_s) for output in outputs if output.tokens]
    assert told == [(0.0, 2.0), (None, None), (0.0, 2.0)]


def test_times_of_requests_that_never_drew_a_token() -> None:
    bench = Bench(overlap=False, step_tokens=8, step_requests=1)
    bench.loop.submit(make_request(0, 20))
    bench.loop.submit(make_request(1, 3))
    bench.loop.run_once()
    bench.loop.abort(0)
    bench.loop.abort(1)
    by_id = {output.request_id: output for output in bench.loop.run_once()}
    assert (by_id[0].queue_s, by_id[0].prefill_s) == (0.0, None)
    assert (by_id[1].queue_s, by_id[1].prefill_s) == (1.0, None)


def test_a_prompt_that_is_only_scored_has_a_prefill_time() -> None:
    bench = Bench(overlap=False, step_tokens=8)
    bench.loop.submit(make_request(0, 12, max_tokens=0))
    assert bench.run()[0].prefill_s == 2.0


def test_a_refused_request_ends_with_the_next_run() -> None:
    bench = Bench()
    bench.loop.submit(make_request(0, 500))
    has_news = bench.loop.has_work
    (output,) = bench.loop.run_once()
    assert (has_news, output.finish, output.queue_s) == (True, FinishReason.ERROR, 0.0)
    assert not bench.loop.has_work
    assert bench.recorder.calls == []


def test_an_abort_is_confirmed_once_and_of_an_unknown_request_not_at_all() -> None:
    bench = Bench()
    bench.loop.submit(make_request(0, 3, max_tokens=50))
    bench.loop.run_once()
    bench.loop.abort(0)
    bench.loop.abort(0)
    bench.loop.abort(7)
    assert [(o.request_id, o.finish) for o in bench.loop.run_once()] == [(0, FinishReason.ABORT)]
    assert bench.run() == {}
    stats = bench.loop.stats()
    assert (stats.num_running, stats.num_free_blocks) == (0, 64)


def test_a_dead_runner_ends_every_request_once() -> None:
    bench = Bench(step_requests=1)
    for i in range(3):
        bench.loop.submit(make_request(i, 3, max_tokens=50))
    bench.loop.run_once()
    bench.loop.abort(1)
    bench.recorder.is_dead = True
    with pytest.raises(WorkerDied):
        bench.loop.run_once()
    outputs = bench.loop.fail_all("rank 0 ended with signal 9")
    assert sorted((o.request_id, o.finish, o.error) for o in outputs) == [
        (0, FinishReason.ERROR, "rank 0 ended with signal 9"),
        (1, FinishReason.ABORT, None),  # what was not handed out yet is not lost
        (2, FinishReason.ERROR, "rank 0 ended with signal 9"),
    ]
    assert not bench.loop.has_work
    assert bench.loop.fail_all("again") == ()


def test_a_loop_that_only_waits_for_media_goes_on_polling() -> None:
    bench = Bench()
    bench.recorder.runner = FakeRunner(4, 8, encode_steps=100, encode_waits=3)
    bench.loop.submit(make_request(0, 6, max_tokens=2, media=(make_media(0, 4),)))
    assert bench.run()[0].finish is FinishReason.LENGTH
    assert [step.wait for step in bench.recorder.runner.steps] == [False, True, True, True, False, False]
