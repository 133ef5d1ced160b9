"""One HTTP response -> the events and the verdict of its exchange; no sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ming_eval.client import wire
from ming_eval.client.exchange import Exchange
from ming_eval.client.sse import EventSplitter, LineSplitter
from ming_eval.targets import Dialect
from ming_eval.types import Event, EventKind, Failure

EventCallback = Callable[[Event], None]

_MAX_ERROR_BODY_BYTES = 65_536
_DONE = b"[DONE]"
_ERROR = EventKind.ERROR  # looked up once: the enumeration's own look-up is slow, and there is one for each token
# Reasons with which servers of the vLLM and SGLang families end a reply that they gave up on.
_BROKEN_REASONS = frozenset({"error", "abort"})


class ReplyError(Exception):
    """The reply has failed; nothing more of it is read."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message


class ReplyReader:
    """Reads the response to one exchange: `begin` with the head, `feed` with the body, `end` once.

    The content type decides how the body is read, not what was asked: a server may ignore `stream`.
    """

    def __init__(self, exchange: Exchange, dialect: Dialect, on_event: EventCallback | None = None) -> None:
        self.exchange = exchange
        self._dialect = dialect
        self._on_event = on_event
        self._splitter: EventSplitter | LineSplitter | None = None
        self._is_done = False
        self._parts: list[bytes] = []  # the body, where it is not a stream
        self._num_part_bytes = 0

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take in the head; header names are lower case.

        Raises:
            ReplyError: the body is in a coding that was not offered.
        """
        self.exchange.http_status = status
        self.exchange.retry_after_s = _seconds(headers.get("retry-after"))
        self.exchange.sample_rate_hz = _rate(headers.get("x-audio-sample-rate")) or self._dialect.pcm_sample_rate_hz
        coding = headers.get("content-encoding", "identity")
        if coding != "identity":
            raise ReplyError(Failure.MALFORMED, f"the reply is {coding}-coded although only identity was accepted")
        content_type = headers.get("content-type", "")
        if status < 300 and "ndjson" in content_type:
            self._splitter = LineSplitter()
        elif status < 300 and ("event-stream" in content_type or (self._streamed and "json" not in content_type)):
            self._splitter = EventSplitter()

    def feed(self, body: bytes, now_s: float) -> None:
        """Take in a piece of the body that arrived at `now_s`.

        Raises:
            ReplyError: a malformed event, or an error in the stream.
        """
        if self._splitter is None:
            self._keep(body)
            return
        add, dialect = self._add, self._dialect
        try:
            for name, data in self._splitter.feed(body):
                if self._is_done:
                    return
                if data == _DONE:
                    self._is_done = True
                    add([Event(EventKind.DONE, now_s)])
                elif name == "error":
                    raise ReplyError(Failure.INBAND_ERROR, wire.error_text(data))
                elif data:  # an empty event keeps a connection alive
                    add(wire.decode_chunk(data, now_s, dialect))
        except wire.WireError as exc:
            raise ReplyError(Failure.MALFORMED, f"malformed event: {exc}") from exc

    def end(self, now_s: float, broken: ReplyError | None = None) -> None:
        """Close the exchange; `broken` is why the body ended before its end, None when it is complete."""
        try:
            self._judge(now_s, broken)
        except ReplyError as exc:
            self.exchange.fail(exc.failure, wire.shorten(exc.message), now_s)
        else:
            self.exchange.done_s = now_s

    def _judge(self, now_s: float, broken: ReplyError | None) -> None:
        status = self.exchange.http_status
        if status is not None and status >= 300:
            raise ReplyError(_status_failure(status), f"HTTP {status}: {wire.error_text(b''.join(self._parts))}")
        if broken is not None and not self._is_done:  # after [DONE], what becomes of the connection is no failure
            raise broken
        if self._splitter is None:
            self._decode_whole(now_s)
        self._check_events()

    def _check_events(self) -> None:
        exchange = self.exchange
        reason = next((event.text for event in reversed(exchange.events) if event.kind is EventKind.FINISH), None)
        if reason in _BROKEN_REASONS:
            raise ReplyError(Failure.INBAND_ERROR, f"the server ended the reply with finish_reason {reason!r}")
        if not exchange.has_output():
            raise ReplyError(Failure.EMPTY, "the reply is complete and holds no output")
        if exchange.request.wants_audio and not exchange.has(EventKind.AUDIO):
            raise ReplyError(Failure.EMPTY, "speech was asked for and none came")
        if reason is None and not self._dialect.says_finish:
            return
        if reason is None and self._splitter is not None and not self._is_done:
            raise ReplyError(Failure.EARLY_EOF, "the stream ended without finish_reason and [DONE]")
        if reason is None:
            raise ReplyError(Failure.NO_FINISH_REASON, "the reply is complete and has no finish_reason")

    @property
    def _streamed(self) -> bool:
        return self.exchange.request.stream

    def _keep(self, body: bytes) -> None:
        status = self.exchange.http_status or 0
        if status < 300 or self._num_part_bytes < _MAX_ERROR_BODY_BYTES:
            self._parts.append(body)
            self._num_part_bytes += len(body)

    def _decode_whole(self, now_s: float) -> None:
        if not self._parts:
            return
        try:
            self._add(wire.decode_reply(b"".join(self._parts), now_s, self._dialect))
        except wire.WireError as exc:
            raise ReplyError(Failure.MALFORMED, f"malformed reply: {exc}") from exc

    def _add(self, events: list[Event]) -> None:
        self.exchange.events += events
        if self._on_event is not None:
            for event in events:
                self._on_event(event)
        if events and events[-1].kind is _ERROR:
            raise ReplyError(Failure.INBAND_ERROR, events[-1].text)


def _status_failure(status: int) -> Failure:
    """A redirect counts as the client's mistake: it would have to send the body to another place."""
    if status == 429:
        return Failure.HTTP_429
    return Failure.HTTP_5XX if status >= 500 else Failure.HTTP_4XX


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date is not read."""
    return float(text) if text is not None and text.isdecimal() else None


def _rate(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) > 0 else None
