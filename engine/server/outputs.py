"""From outputs, which come per request of a worker, to the one HTTP request that waits for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from engine.core.request import Output
from engine.core.speech import SpeechOutput
from engine.server.errors import ApiError

MAX_UNREAD_ENTRIES = 1 << 16  # about 4 MiB of tokens and alternatives
MAX_UNREAD_BYTES = 4 << 20  # of speech, most of a minute

T = TypeVar("T")


class Mailbox(ABC, Generic[T]):
    """Outputs of one HTTP request; one reader.

    `on_overflow` is called when more than `limit` pile up because the reader waits for its client.
    """

    limit: int

    def __init__(self, on_overflow: Callable[[], None] | None = None) -> None:
        self._on_overflow = on_overflow
        self._outputs: deque[T] = deque()
        self._unread = 0
        self._error: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @abstractmethod
    def size(self, output: T) -> int:
        """What an output counts towards the limit."""

    def put(self, output: T) -> None:
        """Hand over one output; called on the event loop."""
        self._outputs.append(output)
        self._unread += self.size(output)
        if self._unread > self.limit and self._on_overflow is not None:
            self._on_overflow()
        self._wake()

    def fail(self, error: ApiError) -> None:
        """End the request; the reader gets what came before, then the error. Only the first error counts."""
        self._error = self._error or error
        self._wake()

    async def get(self) -> list[T]:
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
        self._unread = 0
        return outputs

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class OutputQueue(Mailbox[Output]):
    """Outputs of the engine, for all choices of a request.

    Generated tokens and alternatives count. Scored prompt tokens do not, their number is bounded by the request itself.
    """

    limit = MAX_UNREAD_ENTRIES

    def size(self, output: Output) -> int:
        return len(output.tokens) + sum(len(entry.top) for entry in output.logprobs)


class SpeechQueue(Mailbox[SpeechOutput]):
    """Samples of one utterance."""

    limit = MAX_UNREAD_BYTES

    def size(self, output: SpeechOutput) -> int:
        return len(output.pcm)
