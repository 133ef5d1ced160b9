"""Requests on their way to the engine, while they are read, parsed and completed with media: how much they hold,
and their common end when the server cannot serve them any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import Overloaded
from engine.server.errors import ApiError

_RETRY_AFTER_S = 1  # what is held is given back within moments


class Preparation:
    """One request under way; `hold` accounts for the memory that it takes."""

    def __init__(self, intake: Intake, task: asyncio.Task[object]) -> None:
        self._intake = intake
        self._task = task
        self.num_bytes = 0
        self.error: ApiError | None = None

    def hold(self, num_bytes: int) -> None:
        """Account for `num_bytes` more, until the preparation is over.

        Raises:
            Overloaded: all requests together would hold more than they may. One that is alone always passes, its
                own limits bound it.
        """
        self.num_bytes += num_bytes
        total = self._intake.num_bytes
        if total > self._intake.max_bytes and total > self.num_bytes:
            message = "The server holds as much request data as it may. Try again later."
            raise Overloaded(message, retry_after_s=_RETRY_AFTER_S)

    def end(self, error: ApiError) -> None:
        """Have the request answered with `error` instead."""
        if self.error is None:
            self.error = error
            self._task.cancel()


class Intake:
    """All requests in preparation, which hold `max_bytes` together at most; lives on the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._open: set[Preparation] = set()

    @property
    def num_requests(self) -> int:
        return len(self._open)

    @property
    def num_bytes(self) -> int:
        return sum(preparation.num_bytes for preparation in self._open)

    @contextmanager
    def prepare(self) -> Iterator[Preparation]:
        """Around what the current task does for one request.

        Raises:
            ApiError: the request was ended with it from outside.
        """
        task = asyncio.current_task()
        assert task is not None
        preparation = Preparation(self, task)
        self._open.add(preparation)
        try:
            yield preparation
        except asyncio.CancelledError:
            if preparation.error is None or task.uncancel() > 0:  # the client is gone, whatever else happened
                raise
            raise preparation.error from None
        finally:
            self._open.discard(preparation)

    def end_all(self, error: ApiError) -> None:
        """Have every request in preparation answered with `error`."""
        for preparation in list(self._open):
            preparation.end(error)
