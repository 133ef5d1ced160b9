"""One HTTP request while the engine works on it: submitted, read, and never left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from engine.core.request import FinishReason, Output
from engine.server.admission import admit
from engine.server.choice import Choice, Delta
from engine.server.errors import internal_error, request_timeout
from engine.server.metrics import SequenceTimer
from engine.server.outputs import OutputQueue
from engine.server.plan import Plan, Serving
from engine.server.service import Service
from engine.server.usage import Usage, count_usage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the tenant for fairness, the label for logs, and when the request came by the loop's clock."""

    tenant: str
    label: str
    arrived_s: float


class Answering(Protocol):
    """An answer in the making; as a context manager it is submitted, and aborted if it is not finished at the end."""

    @property
    def plan(self) -> Plan: ...

    @property
    def is_finished(self) -> bool: ...

    @property
    def usage(self) -> Usage: ...

    async def next(self) -> list[Delta]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Sequence:
    choice: Choice
    timer: SequenceTimer


class Generation:
    """The choices of one request; as a context manager it submits them and aborts what is open at the end.

    `on_overflow` is called when outputs pile up unread.
    """

    def __init__(
        self, service: Service, serving: Serving, plan: Plan, caller: Caller, on_overflow: Callable[[], None] | None
    ) -> None:
        self._plan = plan
        self._service = service
        self._serving = serving
        self._caller = caller
        self._queue = OutputQueue(on_overflow)
        self._choices: list[Choice] = []
        self._open: dict[int, _Sequence] = {}  # by engine request id
        self._deadline: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Submit all choices.

        Raises:
            Overloaded, InvalidRequest: they are not admitted, now or ever.
            ApiError: the engine is gone.
        """
        service, plan = self._service, self._plan
        engine, limits = service.engine, service.queue_limits
        num_tokens = plan.num_prompt_tokens * plan.num_samples
        admit(plan.num_choices, num_tokens, engine.load, limits, engine.drain)
        requests = tuple(plan.engine_requests(engine.next_id, self._caller.tenant))
        clock = asyncio.get_running_loop().time
        for index, request in enumerate(requests):
            choice = Choice(index, plan, self._serving.tokenizer)
            self._choices.append(choice)
            self._open[request.id] = _Sequence(choice, SequenceTimer(service.metrics, self._caller.arrived_s, clock))
        engine.submit(requests, self._queue)
        self._set_deadline(service.options.request_timeout_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._service.engine.abort(self._open)
        left = kind is not None and issubclass(kind, (asyncio.CancelledError, ConnectionError))
        for sequence in self._open.values():
            self._end(sequence, FinishReason.ABORT if left else FinishReason.ERROR)
        self._open.clear()

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def is_finished(self) -> bool:
        return not self._open

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return count_usage(self._plan, self._choices)

    async def next(self) -> list[Delta]:
        """What is new, for one or more choices; possibly nothing that shows.

        Raises:
            ApiError: the request cannot be answered to its end.
        """
        deltas = []
        for output in await self._queue.get():
            sequence = self._open.get(output.request_id)
            if sequence is not None:  # otherwise it reached a stop string a moment ago
                deltas += self._take(sequence, output)
        return deltas

    def _take(self, sequence: _Sequence, output: Output) -> list[Delta]:
        if output.finish in (FinishReason.ERROR, FinishReason.ABORT):
            log.error("request %s: the engine gave up: %s", self._caller.label, output.error)
            raise internal_error(self._caller.label)
        if output.queue_s is not None:
            sequence.timer.note_engine_times(output.queue_s, output.prefill_s)
        if output.tokens:
            sequence.timer.note_tokens(len(output.tokens))
        delta = sequence.choice.feed(output)
        if delta is None:
            return []
        if delta.finish is not None:
            del self._open[output.request_id]
            self._service.engine.abort((output.request_id,))  # it goes on if only a stop string ended it
            self._end(sequence, FinishReason(delta.finish))
        return [delta]

    def _end(self, sequence: _Sequence, reason: FinishReason) -> None:
        choice = sequence.choice
        sequence.timer.finish(reason, len(self._plan.prompt_of(choice.index).ids), choice.num_tokens)

    def _set_deadline(self, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_at(self._caller.arrived_s + limit_s, self._queue.fail, request_timeout(limit_s))
