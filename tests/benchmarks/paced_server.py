"""A chat server with an exact schedule, for measuring clients: `python -m tests.benchmarks.paced_server`.

A request states its own schedule in `first_ms`, `gap_ms` and `num_tokens`. Each token's text is three readings of the
server's clock (CLOCK_MONOTONIC, seconds): when the request reached the kernel, when it reached this program, and when
the token was written, so that a client on the same machine can compare.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import msgspec
import uvloop

from ming_eval.client.stamped import StampedTransport
from ming_eval.client.stamps import SO_TIMESTAMPNS, ReceiveStamps

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

    def __init__(self, stamps: LastStamp) -> None:
        self._stamps = stamps
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.Transport
        self._schedule: Schedule
        self._start_s = 0.0
        self._arrived_s = 0.0
        self._kernel_s = 0.0
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
            self._kernel_s = self._arrived_s - self._stamps.last_lag_s()
            self._num_sent = 0
            self._set_timer()

    def _set_timer(self) -> None:
        due_s = self._start_s + (self._schedule.first_ms + self._schedule.gap_ms * self._num_sent) / 1e3
        self._loop.call_at(due_s, self._send)

    def _send(self) -> None:
        schedule = self._schedule
        count = 1 if schedule.gap_ms else schedule.num_tokens
        parts = [_chunk(_token(self._kernel_s, self._arrived_s)) for _ in range(count)]
        if self._num_sent == 0:
            parts.insert(0, _HEAD)
        self._num_sent += count
        if self._num_sent < schedule.num_tokens:
            self._set_timer()
        else:
            parts += [_chunk(_TAIL % schedule.num_tokens), b"0\r\n\r\n"]
        self._transport.write(b"".join(parts))


def _token(kernel_s: float, arrived_s: float) -> bytes:
    return (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"paced","choices":[{"index":0,'
        b'"delta":{"content":"%.6f %.6f %.6f"},"logprobs":null,"finish_reason":null}]}\n\n'
        % (kernel_s, arrived_s, time.perf_counter())
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class LastStamp(ReceiveStamps):
    """How long what was read last had waited in the kernel."""

    def last_lag_s(self) -> float:
        """By the offset between the two clocks at the start of the server."""
        lag_s = max(0.0, self._waited_s[-1] - self._offsets[-1][1]) if self._waited_s else 0.0
        self._read_s.pop()
        self._waited_s.pop()
        return lag_s


async def serve() -> None:
    """Listen on a free port, print it, and serve until killed."""
    loop, stamps = asyncio.get_running_loop(), LastStamp()
    stamps.sample_offset()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # what it accepts inherits it

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            StampedTransport(connection, PacedServer(stamps), stamps, time.perf_counter)

    loop.add_reader(listener, accept)
    print(listener.getsockname()[1])
    sys.stdout.flush()
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(serve())
