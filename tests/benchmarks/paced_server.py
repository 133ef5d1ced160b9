"""A chat server with an exact schedule, for measuring clients: `python -m tests.benchmarks.paced_server`.

A request states its own schedule in `first_ms`, `gap_ms` and `num_tokens`. Each token's text is two readings of the
server's clock (CLOCK_MONOTONIC, seconds), when the request arrived and when the token was written, so that a client on
the same machine can compare.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_TAIL = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\n'
    b"data: [DONE]\n\n"
)


class Schedule(msgspec.Struct):
    """When the tokens of one reply go out; a gap of 0 puts them all into one write."""

    first_ms: float
    gap_ms: float
    num_tokens: int


class PacedServer(asyncio.Protocol):
    """One connection; a timer per token, each set from the arrival of the request, so that delays do not add up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.Transport
        self._schedule: Schedule
        self._start_s = 0.0
        self._arrived_s = 0.0
        self._num_sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.rpartition(b"Content-Length: ")[2]):
            self._received = b""
            self._schedule = msgspec.json.decode(body, type=Schedule)
            self._start_s, self._arrived_s = self._loop.time(), time.perf_counter()
            self._num_sent = 0
            self._set_timer()

    def _set_timer(self) -> None:
        due_s = self._start_s + (self._schedule.first_ms + self._schedule.gap_ms * self._num_sent) / 1e3
        self._loop.call_at(due_s, self._send)

    def _send(self) -> None:
        schedule = self._schedule
        count = 1 if schedule.gap_ms else schedule.num_tokens
        parts = [_chunk(_token(self._arrived_s)) for _ in range(count)]
        if self._num_sent == 0:
            parts.insert(0, _HEAD)
        self._num_sent += count
        if self._num_sent < schedule.num_tokens:
            self._set_timer()
        else:
            parts += [_chunk(_TAIL % schedule.num_tokens), b"0\r\n\r\n"]
        self._transport.write(b"".join(parts))


def _token(arrived_s: float) -> bytes:
    return (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"paced","choices":[{"index":0,'
        b'"delta":{"content":"%.6f %.6f"},"logprobs":null,"finish_reason":null}]}\n\n'
        % (arrived_s, time.perf_counter())
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve() -> None:
    """Listen on a free port, print it, and serve until killed."""
    server = await asyncio.get_running_loop().create_server(PacedServer, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1])
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
