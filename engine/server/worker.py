"""What the handles of the two worker processes share: whether the worker is there, and who wants to know."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from engine.ipc import Command, Event


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class Handle(Protocol):
    """A worker as the link to its process sees it."""

    state: WorkerState
    failure: str | None

    def receive(self, event: Event) -> None: ...

    def lose(self, message: str) -> None: ...

    def on_change(self, callback: Callable[[], None]) -> None: ...


class WorkerHandle:
    """State of a worker; lives on the event loop. `send` carries commands to it."""

    def __init__(self, send: Callable[[Command], None]) -> None:
        self.state = WorkerState.STARTING
        self.failure: str | None = None
        self._send = send
        self._last_id = 0
        self._on_change: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `state` has changed."""
        self._on_change.append(callback)

    def next_id(self) -> int:
        """An id that no request of this worker has had."""
        self._last_id += 1
        return self._last_id

    def _change(self, state: WorkerState) -> None:
        self.state = state
        for callback in self._on_change:
            callback()
