"""One pooled HTTP/1.1 connection: bytes out, bytes in, one clock reading per arrival.

This is the measured path. It works on any asyncio loop and is meant for uvloop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from ming_eval.client.exchange import Exchange, Timeouts, next_deadline
from ming_eval.client.reply import ReplyError, ReplyReader
from ming_eval.types import Failure

Clock = Callable[[], float]

_SURELY_READ_BYTES = 65_536  # what servers read at once, before they answer


class Connection(asyncio.Protocol):
    """Carries one exchange at a time; after a reply that broke off it is closed and carries no more."""

    def __init__(self, clock: Clock, timeouts: Timeouts) -> None:
        self._clock = clock
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        # A server sends an HTTP chunk per token, and many of them may arrive at once: the parser puts the pieces of
        # the body straight into a list, which is read once per arrival.
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: dict[str, str] = {}
        self._until_eof = False
        self._reader: ReplyReader | None = None
        self._finished: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._now_s = 0.0
        self._usable = False
        self._is_paused = False
        self.idle_since_s = clock()
        self.connect_s = 0.0  # set by who opened it
        self.is_stamped = False  # the kernel's receive stamps are read; set by who opened it

    @property
    def usable(self) -> bool:
        """True while a request may be sent."""
        return self._usable and self._reader is None

    async def exchange(self, reader: ReplyReader) -> None:
        """Send the reader's request and return once its exchange has ended, whichever way.

        A caller that is cancelled must `close` the connection.
        """
        assert self.usable
        assert self._transport is not None
        exchange = reader.exchange
        self._reader = reader
        self._finished = self._loop.create_future()
        self._timer = self._loop.call_later(self._longest_sleep_s(exchange), self._check_deadline)
        exchange.sent_s = self._clock()
        self._transport.write(exchange.request_bytes)
        if not self._is_paused:  # the kernel has taken all of it
            exchange.uploaded_s = self._clock()
        await self._finished

    def close(self) -> None:
        """Drop the connection, and with it the exchange that it carries."""
        self._usable = False
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return once the transport is gone."""
        await self._closed

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._transport.set_write_buffer_limits(high=0)  # paused while a byte of a request is left, resumed after it
        self._usable = True

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._reader is not None and self._reader.exchange.uploaded_s is None:
            self._reader.exchange.uploaded_s = self._clock()

    def data_received(self, data: bytes) -> None:
        self._now_s = self._clock()
        reader = self._reader
        if reader is None:  # nothing was asked: a farewell such as 408
            self.close()
            return
        if reader.exchange.first_byte_s is None:
            reader.exchange.first_byte_s = self._now_s
        try:
            self._parser.feed_data(data)
            self._read_body()
        except httptools.HttpParserCallbackError as exc:
            self._crash(exc.__context__ or exc)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._read_body()
            self._finish(ReplyError(Failure.MALFORMED, f"not HTTP: {exc}"))

    def eof_received(self) -> None:
        self._usable = False
        self._now_s = self._clock()
        self._finish(None if self._until_eof else _early_eof(self._eof_text()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._usable = False
        self._now_s = self._clock()
        reset = ReplyError(Failure.RESET, f"connection reset: {exc}")
        self._finish(_early_eof("the connection was closed before the reply ended") if exc is None else reset)
        if not self._closed.done():
            self._closed.set_result(None)

    # --- httptools.HttpResponseParser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, {}
        status = self._parser.get_status_code()
        if self._reader is None:  # a second reply behind the one that was asked for
            self.close()
            return
        if status < 200:  # 100 Continue and the like announce the real head
            return
        self._until_eof = not (headers.keys() & {"content-length", "transfer-encoding"})
        try:
            self._reader.begin(status, headers)
        except ReplyError as exc:
            self._finish(exc)

    def on_message_complete(self) -> None:
        self._headers = {}  # trailers are not the next reply's headers
        if self._parser.get_status_code() >= 200:
            self._read_body()
            self._usable = self._usable and self._parser.should_keep_alive()
            self._finish(None)

    # --- reading and ending ---

    def _read_body(self) -> None:
        """Hand on what has arrived of the body."""
        pieces = self._body
        if not pieces:
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        reader = self._reader
        if reader is None:
            return
        try:
            reader.feed(body, self._now_s)
        except ReplyError as exc:
            self._finish(exc)
        except BaseException as exc:
            self._crash(exc)
            raise

    def _finish(self, broken: ReplyError | None) -> None:
        """End the exchange that is under way, if there is one.

        A good one leaves the connection open, and so does a refusal (HTTP 429, 503) that was read to its end: a server
        that turns requests away is not made to take in a new connection for each of them as well. One that may not have
        read all of a long request before it refused it often closes the connection behind the reply.
        """
        if self._reader is None or self._finished is None:
            return
        reader, self._reader, self._until_eof = self._reader, None, False
        try:
            reader.end(self._now_s, broken)
        except BaseException as exc:
            self._crash(exc)
            raise
        self.idle_since_s = self._now_s
        if self._timer is not None:
            self._timer.cancel()
        exchange = reader.exchange
        is_refusal = (exchange.http_status or 0) >= 300 and len(exchange.request_bytes) <= _SURELY_READ_BYTES
        if broken is not None or not self._usable or (exchange.failure is not None and not is_refusal):
            self.close()
        if not self._finished.done():
            self._finished.set_result(None)

    def _crash(self, exc: BaseException) -> None:
        """A bug is raised where the request was sent, not recorded as the server's failure."""
        self._reader = None
        self.close()
        if self._finished is not None and not self._finished.done():
            self._finished.set_exception(exc)

    def _check_deadline(self) -> None:
        """The one timer of an exchange: sleeps from limit to limit rather than being reset by every event."""
        if self._reader is None:
            return
        exchange = self._reader.exchange
        self._now_s = self._clock()
        due_s, failure = next_deadline(exchange, self._timeouts)
        if self._now_s >= due_s:
            self._finish(ReplyError(failure, _timeout_text(failure, self._timeouts)))
            return
        delay_s = min(due_s - self._now_s, self._longest_sleep_s(exchange))
        self._timer = self._loop.call_later(delay_s, self._check_deadline)

    def _eof_text(self) -> str:
        """A server that gives no byte of a reply on a connection it had kept may not have meant to keep it."""
        exchange = self._reader.exchange if self._reader is not None else None
        if exchange is None or exchange.first_byte_s is not None or not exchange.reused_connection:
            return "the server closed the connection before the reply ended"
        return (
            "the server closed the connection instead of answering; where it does so behind each reply, "
            "--header 'Connection: close' opens one for each request"
        )

    def _longest_sleep_s(self, exchange: Exchange) -> float:
        """How long no limit can pass unnoticed: the first output may bring the next limit nearer."""
        limits = self._timeouts
        return min(limits.first_s, limits.idle_s, limits.total_s) if exchange.request.stream else limits.total_s


def _early_eof(message: str) -> ReplyError:
    return ReplyError(Failure.EARLY_EOF, message)


def _timeout_text(failure: Failure, timeouts: Timeouts) -> str:
    match failure:
        case Failure.TIMEOUT_FIRST:
            return f"no output within {timeouts.first_s:g} s"
        case Failure.TIMEOUT_IDLE:
            return f"nothing more for {timeouts.idle_s:g} s"
        case _:
            return f"not finished within {timeouts.total_s:g} s"
