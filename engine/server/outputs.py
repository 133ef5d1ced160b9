"""From engine outputs, which come per engine request, to the one HTTP request that waits for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from engine.core.request import Output
from engine.server.errors import ApiError

MAX_UNREAD_ENTRIES = 1 << 16  # about 4 MiB of tokens and alternatives


class OutputQueue:
    """Outputs of one HTTP request, all its choices; one reader.

    `on_overflow` is called when generated tokens (or alternatives) pile up because the reader waits for its client.
    Scored prompt tokens do not count, their number is bounded by the request itself.
    """

    def __init__(self, on_overflow: Callable[[], None] | None = None) -> None:
        self._on_overflow = on_overflow
        self._outputs: deque[Output] = deque()
        self._num_entries = 0
        self._error: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, output: Output) -> None:
        """Hand over one output; called on the event loop."""
        self._outputs.append(output)
        self._num_entries += len(output.tokens) + sum(len(entry.top) for entry in output.logprobs)
        if self._num_entries > MAX_UNREAD_ENTRIES and self._on_overflow is not None:
            self._on_overflow()
        self._wake()

    def fail(self, error: ApiError) -> None:
        """End the request; the reader gets what came before, then the error. Only the first error counts."""
        self._error = self._error or error
        self._wake()

    async def get(self) -> list[Output]:
        """All outputs that wait, at least one.

        Raises:
            ApiError: the request failed and nothing is left to read.
        """
        while not self._outputs:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        outputs = list(self._outputs)
        self._outputs.clear()
        self._num_entries = 0
        return outputs

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
