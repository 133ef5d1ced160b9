"""The engine as the HTTP side sees it: requests go in, outputs come back to the queue of their HTTP request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from engine.config import EngineInfo
from engine.core.request import EngineStats, GenerationRequest, Output
from engine.ipc import Abort, Command, Event, Failed, Ready, Report, Submit
from engine.server.admission import DrainRate, QueueLoad
from engine.server.errors import ApiError, unavailable
from engine.server.outputs import OutputQueue
from engine.server.worker import WorkerHandle, WorkerState


@dataclass(slots=True)
class _Open:
    """An engine request whose terminal output has not come."""

    queue: OutputQueue
    num_prompt_tokens: int
    is_waiting: bool = True  # no output so far


class EngineHandle(WorkerHandle):
    """Keeps account of the requests that are open in the engine; everything happens on the event loop.

    `send` carries commands to the engine, whose events come in through `receive`. `lose` says that it is gone,
    which ends every open request; the last event of an engine that fails on purpose does the same.
    """

    def __init__(self, send: Callable[[Command], None]) -> None:
        super().__init__(send)
        self.stats = EngineStats()
        self.drain = DrainRate()
        self._info: EngineInfo | None = None
        self._open: dict[int, _Open] = {}
        self._num_submitted = 0
        self._num_received = 0
        self._waiting_tokens = 0
        self._num_waiting = 0

    @property
    def info(self) -> EngineInfo:
        """What the engine found at start-up.

        Raises:
            ApiError: it has not started, or is gone.
        """
        if self.state is WorkerState.FAILED:
            raise unavailable("engine_failed")
        if self._info is None:
            raise unavailable("starting")
        return self._info

    @property
    def load(self) -> QueueLoad:
        num_unseen = self._num_submitted - self._num_received
        return QueueLoad(self.stats.num_running, self.stats.num_waiting, num_unseen, self._waiting_tokens)

    def submit(self, requests: Sequence[GenerationRequest], queue: OutputQueue) -> None:
        """Start requests whose outputs all go to `queue`, each until its terminal output or `abort`.

        Raises:
            ApiError: the engine is not there.
        """
        assert self.info is not None
        if self._num_waiting == 0:
            self.drain.restart()
        for request in requests:
            self._open[request.id] = _Open(queue, len(request.prompt_ids))
            self._waiting_tokens += len(request.prompt_ids)
        self._num_waiting += len(requests)
        self._num_submitted += len(requests)
        self._send(Submit(tuple(requests)))

    def abort(self, request_ids: Iterable[int]) -> None:
        """Forget requests; those that are still open end in the engine, too, and put out nothing more."""
        gone = tuple(request_id for request_id in request_ids if self._forget(request_id))
        if gone and self.state is WorkerState.READY:
            self._send(Abort(gone))

    def receive(self, event: Event) -> None:
        """Take in what the engine says; what it said before it failed and comes after that counts no more."""
        if self.state is WorkerState.FAILED:
            return
        if isinstance(event, Report):
            self.stats, self._num_received = event.stats, event.num_received
            for output in event.outputs:
                self._route(output)
        elif isinstance(event, Ready):
            self._info = event.info
            self._change(WorkerState.READY)
        elif isinstance(event, Failed):
            self.lose(event.message)

    def lose(self, message: str) -> None:
        """The engine is gone; `message` is for the operator. Only the first reason is kept."""
        if self.state is WorkerState.FAILED:
            return
        self.failure = message
        # Nothing is held any more; what was counted stays, or a last look at the metrics would find it undone.
        self.stats = replace(self.stats, num_running=0, num_waiting=0, num_free_blocks=self.stats.num_blocks)
        still_open, self._open = self._open, {}
        self._waiting_tokens = self._num_waiting = 0
        self._change(WorkerState.FAILED)
        for entry in still_open.values():
            entry.queue.fail(unavailable("engine_failed"))

    def fail_open(self, error: ApiError) -> None:
        """End every open request with `error`; the engine goes on."""
        queues = [entry.queue for entry in self._open.values()]
        self.abort(list(self._open))
        for queue in queues:
            queue.fail(error)

    def _route(self, output: Output) -> None:
        entry = self._open.get(output.request_id)
        if entry is None:
            return  # aborted meanwhile
        self._mark_started(entry)
        if output.finish is not None:
            self._forget(output.request_id)
        entry.queue.put(output)

    def _mark_started(self, entry: _Open) -> None:
        if entry.is_waiting:
            entry.is_waiting = False
            self._waiting_tokens -= entry.num_prompt_tokens
            self._num_waiting -= 1
            self.drain.note()

    def _forget(self, request_id: int) -> bool:
        entry = self._open.pop(request_id, None)
        if entry is not None:
            self._mark_started(entry)
        return entry is not None
