"""One utterance while the talker works on it: opened, read, and never left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from engine.core.speech import SpeechFinish, SpeechOutput, SpeechRequest
from engine.errors import InvalidRequest
from engine.server.errors import as_api_error, request_timeout
from engine.server.outputs import SpeechQueue
from engine.server.service import Service


class Utterance:
    """Text in, samples out; as a context manager it opens the utterance and aborts it if it is open at the end.

    `on_overflow` is called when samples pile up unread. `arrived_s` is by the loop's clock.

    Attributes:
        is_finished: nothing more will come.
        num_steps: steps of the talker so far.
        num_prompt_tokens: tokens of the text spoken so far.
    """

    def __init__(
        self, service: Service, request: SpeechRequest, arrived_s: float, on_overflow: Callable[[], None] | None
    ) -> None:
        self.is_finished = False
        self.num_steps = 0
        self.num_prompt_tokens = 0
        self._service = service
        self._request = request
        self._arrived_s = arrived_s
        self._queue = SpeechQueue(on_overflow)
        self._deadline: asyncio.TimerHandle | None = None

    def __enter__(self) -> Utterance:
        """Open it.

        Raises:
            ApiError: the talker is gone.
            Overloaded: the queue is full.
        """
        options = self._service.options
        self._service.speech.open(self._request, self._queue, options.max_queue)
        limit_s = options.request_timeout_s
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_at(self._arrived_s + limit_s, self._queue.fail, request_timeout(limit_s))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._service.speech.abort(self._request.id)

    def say(self, text: str, *, last: bool) -> None:
        """More of the text."""
        self._service.speech.say(self._request.id, text, last=last)

    async def next(self) -> bytes:
        """The samples that are new, possibly none.

        Raises:
            ApiError: the text cannot be spoken, the talker failed, or it took too long.
        """
        return b"".join([self._take(output) for output in await self._queue.get()])

    def _take(self, output: SpeechOutput) -> bytes:
        if output.finish is SpeechFinish.REFUSED:
            raise as_api_error(InvalidRequest(output.error or "this cannot be spoken", param="input"))
        self.num_steps += output.num_steps
        self.num_prompt_tokens += output.num_prompt_tokens
        self.is_finished = output.finish is not None
        return output.pcm
