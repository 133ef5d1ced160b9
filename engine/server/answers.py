"""A generation to its HTTP answer: one JSON body, or a stream of server-sent events."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from engine.server.chunks import DONE, Chunks, error_event
from engine.server.errors import ApiError
from engine.server.generation import Answering
from engine.server.plan import Plan
from engine.server.replies import Collected, WriteReply

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Format:
    """How one route writes its answers; `prefix` begins their ids."""

    prefix: str
    chunks: Callable[[Plan, str, int], Chunks]
    reply: WriteReply


STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the last one for nginx
EVENT_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", **STREAM_HEADERS}


class ResponseStream:
    """A response that is sent piece by piece; its headers go out with the first of them."""

    def __init__(self, request: web.Request, headers: Mapping[str, str] = EVENT_HEADERS) -> None:
        self._request = request
        self._headers = headers
        self._response: web.StreamResponse | None = None

    @property
    def has_begun(self) -> bool:
        return self._response is not None

    async def write(self, piece: bytes) -> None:
        """Send a piece; waits while the client has much to read, until the connection is dropped for it.

        Raises:
            ConnectionError: the client is gone.
        """
        response = self._response or await self._begin()
        if self._request.transport is None:
            raise ConnectionResetError("the client is gone")
        await response.write(piece)

    async def end(self) -> web.StreamResponse:
        """Close the stream."""
        assert self._response is not None
        await self._response.write_eof()
        return self._response

    def break_off(self) -> None:
        """Drop the connection, with what the client has not read."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _begin(self) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers)
        await response.prepare(self._request)
        self._response = response
        return response


async def answer_whole(generation: Answering, write: Callable[[list[Collected]], Awaitable[bytes]]) -> web.Response:
    """Wait for all choices and answer at once.

    Raises:
        ApiError: the request cannot be answered.
    """
    choices = [Collected(index) for index in range(generation.plan.num_choices)]
    with generation:
        while not generation.is_finished:
            for delta in await generation.next():
                choices[delta.index].add(delta)
    return web.Response(body=await write(choices), content_type="application/json")


async def answer_stream(generation: Answering, chunks: Chunks, stream: ResponseStream) -> web.StreamResponse:
    """Send what comes when it comes, one write for each step of the engine.

    Raises:
        ApiError: the request failed before the first event; a later failure is an event itself.
        ConnectionError: the client is gone.
    """
    try:
        with generation:
            while not generation.is_finished:
                if events := await _next_events(generation, chunks):
                    await stream.write(events)
    except ApiError as error:
        if not stream.has_begun:
            raise
        await stream.write(error_event(error) + DONE)
    return await stream.end()


async def _next_events(generation: Answering, chunks: Chunks) -> bytes:
    deltas = await generation.next()
    usage = generation.usage if generation.plan.continuous_usage else None
    events = [chunks.delta(delta, usage) for delta in deltas]
    if generation.is_finished:
        events += [chunks.usage(generation.usage), DONE] if generation.plan.include_usage else [DONE]
    return b"".join(events)
