"""One connection, fed by hand: what HTTP allows beside the usual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.client.exchange import Exchange, Timeouts
from ming_eval.client.protocol import Connection
from ming_eval.client.reply import ReplyReader
from ming_eval.targets import find_dialect
from ming_eval.types import Failure
from tests.ming_eval.client.helpers import ask, run, text_of

CHUNK = b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"


class Wire(asyncio.Transport):
    """A transport whose far end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0  # the protocol must hear of every byte that is left

    def abort(self) -> None:
        self.aborted = True


def reply(text: bytes, trailer: bytes = b"") -> bytes:
    body = CHUNK % text
    return SSE_HEAD + b"\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)


def talk(*deliveries: list[bytes], then: Callable[[Connection], None] | None = None) -> tuple[list[Exchange], Wire]:
    """One exchange per delivery, each list of pieces handed to the connection after its request went out."""

    async def play() -> tuple[list[Exchange], Wire]:
        wire, connection = Wire(), Connection(asyncio.get_running_loop().time, Timeouts())
        connection.connection_made(wire)
        exchanges = []
        for pieces in deliveries:
            request = ask(stream=True)
            exchange = Exchange(request=request, backend="fake", request_bytes=b"ask", intended_s=None, sent_s=0.0)
            task = asyncio.ensure_future(connection.exchange(ReplyReader(exchange, find_dialect("openai"))))
            await asyncio.sleep(0)
            for piece in pieces:
                connection.data_received(piece)
            if then is not None:
                then(connection)
            await task
            exchanges.append(exchange)
        return exchanges, wire

    return run(play())


@given(st.lists(st.integers(0, len(reply(b"hello"))), max_size=8))
def test_any_cut_of_the_response_gives_the_same_reply(cuts: list[int]) -> None:
    response = reply(b"hello")
    edges = [0, *sorted(cuts), len(response)]
    pieces = [response[a:b] for a, b in pairwise(edges) if a != b]
    (exchange,), wire = talk(pieces)
    assert (text_of(exchange), exchange.failure) == ("hello", None)
    assert (wire.written, wire.aborted) == (b"ask", False)


def test_trailers_are_not_headers_of_the_next_reply() -> None:
    (first, second), _ = talk([reply(b"one", b"Content-Encoding: gzip\r\n")], [reply(b"two")])
    assert (text_of(first), first.failure) == ("one", None)
    assert (text_of(second), second.failure) == ("two", None)


def test_header_names_have_no_case() -> None:
    (exchange,), _ = talk([reply(b"a").replace(b"Content-Type", b"CONTENT-TYPE")])
    assert exchange.failure is None


def test_connection_close_is_obeyed() -> None:
    (exchange,), wire = talk([reply(b"a", b"").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)])
    assert exchange.failure is None
    assert wire.aborted


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"])
def test_empty_body_is_empty(head: bytes) -> None:
    (exchange,), wire = talk([head + b"Content-Length: 0\r\n\r\n"])
    assert exchange.failure is Failure.EMPTY
    assert wire.aborted


def test_no_content_is_empty() -> None:
    (exchange,), _ = talk([b"HTTP/1.1 204 No Content\r\n\r\n"])
    assert exchange.failure is Failure.EMPTY


def test_change_of_protocol_is_refused() -> None:
    upgrade = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI"
    (exchange,), wire = talk([upgrade], then=lambda connection: connection.eof_received())
    assert exchange.failure in (Failure.MALFORMED, Failure.EARLY_EOF)
    assert wire.aborted


def test_events_before_broken_framing_are_kept() -> None:
    body = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    (exchange,), wire = talk([SSE_HEAD + b"\r\n%x\r\n%b\r\nzz\r\n" % (len(body), body)])
    assert (text_of(exchange), exchange.failure) == ("a", Failure.MALFORMED)
    assert wire.aborted


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_recorded_failure(data: bytes) -> None:
    (exchange,), _ = talk([data] if data else [], then=lambda connection: connection.eof_received())
    assert exchange.failure is not None
    assert exchange.error
