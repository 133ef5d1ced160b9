"""The engine's loop: steps go to the runner, outputs come out, times are taken on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from engine.core.request import EngineStats, FinishReason, GenerationRequest, Output, Runner, Step
from engine.core.scheduler import Scheduler

Prepare = Callable[[GenerationRequest], Callable[[], None] | None]


@dataclass(slots=True)
class _Times:
    """When a request was submitted, first scheduled and through with its prompt, by the loop's clock."""

    submitted_s: float
    started_s: float | None = None
    prefilled_s: float | None = None


class EngineLoop:
    """Joins a scheduler and a runner; everything is called from one thread.

    With `overlap` the next step is scheduled and submitted while one runs, so the runner never waits
    for the scheduler; a new request then waits for up to two steps instead of one.

    Attributes:
        prepare: slow work that a request needs before it is submitted, for whoever has another thread; or None.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        clock: Callable[[], float] = time.perf_counter,
        *,
        overlap: bool = True,
        prepare: Prepare | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._clock = clock
        self.prepare = prepare
        self._max_in_flight = 2 if overlap else 1
        self._in_flight: deque[Step] = deque()
        self._ended: list[Output] = []  # terminal outputs that came about between two steps
        self._times: dict[int, _Times] = {}

    @property
    def has_work(self) -> bool:
        """Whether `run_once` has something to do or to hand out."""
        return bool(self._ended or self._in_flight or self._scheduler.has_work)

    def set_step_tokens(self, step_tokens: int) -> None:
        """As `Scheduler.set_step_tokens`."""
        self._scheduler.set_step_tokens(step_tokens)

    def submit(self, request: GenerationRequest) -> None:
        """Accept a request; if it can never run, the next `run_once` says so."""
        self._times[request.id] = _Times(self._clock())
        refusal = self._scheduler.submit(request)
        if refusal is not None:
            self._ended.append(refusal)

    def abort(self, request_id: int) -> None:
        """End a request; the next `run_once` confirms it. Nothing happens if it is not open."""
        output = self._scheduler.abort(request_id)
        if output is not None:
            self._ended.append(output)

    def run_once(self) -> tuple[Output, ...]:
        """Keep the runner supplied and wait for its oldest step; returns at most one output per request.

        Raises:
            WorkerDied: the runner is gone; `fail_all` is what is left to do.
        """
        self._supply()
        outputs: tuple[Output, ...] = ()
        if self._in_flight:
            result = self._runner.collect()
            outputs = self._scheduler.commit(self._in_flight.popleft(), result)
        return self._stamp([*self._take_ended(), *outputs])

    def fail_all(self, message: str) -> tuple[Output, ...]:
        """End every open request with an error, for a runner that is gone."""
        self._in_flight.clear()
        return self._stamp([*self._take_ended(), *self._scheduler.fail_all(message)])

    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    def _supply(self) -> None:
        while len(self._in_flight) < self._max_in_flight:
            step = self._scheduler.schedule()
            if step is None:
                return
            if step.new:
                now = self._clock()
                for request in step.new:
                    self._times[request.id].started_s = now
            self._in_flight.append(step)
            self._runner.submit(step)

    def _take_ended(self) -> list[Output]:
        ended, self._ended = self._ended, []
        return ended

    def _stamp(self, outputs: Iterable[Output]) -> tuple[Output, ...]:
        now = self._clock()
        return tuple([self._stamped(output, now) for output in outputs])

    def _stamped(self, output: Output, now: float) -> Output:
        times = self._times[output.request_id]
        is_first = times.prefilled_s is None and (bool(output.tokens) or output.finish is FinishReason.LENGTH)
        if is_first:
            times.prefilled_s = now
        if output.finish is not None:
            del self._times[output.request_id]
        elif not is_first:
            return output
        return replace(output, queue_s=_queue_s(times, now), prefill_s=_prefill_s(times))


def _queue_s(times: _Times, now: float) -> float:
    return (now if times.started_s is None else times.started_s) - times.submitted_s


def _prefill_s(times: _Times) -> float | None:
    if times.started_s is None or times.prefilled_s is None:
        return None
    return times.prefilled_s - times.started_s
