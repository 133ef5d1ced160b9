"""Comments that keep a quiet stream open through proxies which drop connections that say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from aiohttp import web

from engine.server.answers import ResponseStream

PING = b": ping\n\n"


class PingedStream(ResponseStream):
    """A stream that says something at least every `interval_s` seconds, 0 for never.

    Not before the first event: until then a request may still fail as plain HTTP, and tools take the first bytes for
    the first token.
    """

    def __init__(self, request: web.Request, headers: Mapping[str, str], interval_s: float) -> None:
        super().__init__(request, headers)
        self._interval_s = interval_s
        self._wrote_s = 0.0
        self._is_busy = False
        self._pinging: asyncio.Task[None] | None = None

    async def write(self, piece: bytes) -> None:
        """Send a piece, as `ResponseStream` does."""
        self._is_busy = True
        try:
            await super().write(piece)
        finally:
            self._is_busy = False
            self._wrote_s = asyncio.get_running_loop().time()
        if self._interval_s and self._pinging is None:
            self._pinging = asyncio.create_task(self._ping())

    async def end(self) -> web.StreamResponse:
        """Close the stream; nothing comes after its last event."""
        if self._pinging is not None:
            self._pinging.cancel()
        return await super().end()

    async def _ping(self) -> None:
        """Until the stream ends or the client is gone."""
        clock = asyncio.get_running_loop().time
        with suppress(ConnectionError):
            while self._request.transport is not None:
                quiet_s = clock() - self._wrote_s
                if quiet_s < self._interval_s or self._is_busy:
                    await asyncio.sleep(max(0.01, self._interval_s - quiet_s))
                else:
                    await super().write(PING)
                    self._wrote_s = clock()
