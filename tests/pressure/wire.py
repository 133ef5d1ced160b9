"""HTTP/1.1 by hand: requests that no client library would send, and the answer as it came."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httptools

_READ_BYTES = 1 << 16


@dataclass
class Answer:
    """One response; `body` is without its framing. `is_complete` says that nothing was cut off."""

    status: int = 0
    body: bytes = b""
    is_complete: bool = False
    keeps_alive: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Server-sent events of a complete stream, without the last one, which must be [DONE]."""
        *events, done, rest = self.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", ""), f"the stream does not end as it should: {done[-200:]!r}"
        return [json.loads(event.removeprefix("data: ")) for event in events]


class _Reading:
    """Callbacks of the parser: the first final response."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []

    @property
    def unfinished(self) -> Answer:
        """What has come of a response that does not end as it should."""
        return Answer(self.parser.get_status_code(), b"".join(self._pieces))

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status == 100 or self.answer.is_complete:
            return
        self.answer = Answer(status, b"".join(self._pieces), True, self.parser.should_keep_alive())


class Connection:
    """One TCP connection to the server on this machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._early = b""  # of the answer, read before it is asked for

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, patience_s: float | None = None) -> Answer | None:
        """The next response; None if the server closed the connection without one.

        With `patience_s`, this side is closed when nothing comes for so long, and the server has to follow.
        """
        reading = _Reading()
        data = self._early
        try:
            while True:
                reading.parser.feed_data(data)
                if reading.answer.is_complete:
                    return reading.answer
                if not (data := await self._read(patience_s)):
                    return None
        except ConnectionError:
            return None  # the server closed while it was being sent something
        except httptools.HttpParserUpgrade:
            return reading.answer
        except httptools.HttpParserError:  # no HTTP; or the length of a HEAD's body, which never comes
            return reading.answer if reading.answer.is_complete else reading.unfinished

    async def some(self) -> None:
        """Wait until something of the answer is there."""
        self._early += await self._reader.read(_READ_BYTES)

    async def _read(self, patience_s: float | None) -> bytes:
        if patience_s is not None:
            try:
                async with asyncio.timeout(patience_s):
                    return await self._reader.read(_READ_BYTES)
            except TimeoutError:
                self._writer.write_eof()
        return await self._reader.read(_READ_BYTES)

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        """Leave without a word."""
        self._writer.transport.abort()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A well-formed JSON request with any body."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def post_json(path: str, fields: object) -> bytes:
    return post(path, json.dumps(fields).encode())


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
