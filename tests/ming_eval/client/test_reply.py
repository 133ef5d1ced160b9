"""Verdicts on replies, from bytes handed over without a connection; deadlines, from times made by hand."""

from __future__ import annotations

import json

import pytest

from ming_eval.client.exchange import Exchange, Timeouts, next_deadline
from ming_eval.client.reply import ReplyError, ReplyReader
from ming_eval.targets import find_dialect
from ming_eval.types import Event, EventKind, Failure
from tests.ming_eval.client.helpers import ask, text_of

SSE = {"content-type": "text/event-stream; charset=utf-8"}
RESET = ReplyError(Failure.RESET, "connection reset")
DONE = b"data: [DONE]\n\n"


def new_exchange(stream: bool = True) -> Exchange:
    return Exchange(request=ask(stream=stream), backend="fake", request_bytes=b"", intended_s=None, sent_s=10.0)


def token(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def read(*pieces: bytes, broken: ReplyError | None = None, status: int = 200, stream: bool = True) -> Exchange:
    """The exchange after a reply of these pieces, each a second after the one before."""
    exchange = new_exchange(stream)
    reader = ReplyReader(exchange, find_dialect("openai"))
    reader.begin(status, SSE if status == 200 else {"content-type": "application/json"})
    now_s = 11.0
    try:
        for piece in pieces:
            reader.feed(piece, now_s)
            now_s += 1
    except ReplyError as exc:
        broken = exc
    reader.end(now_s, broken)
    return exchange


def test_events_are_stamped_with_the_arrival_that_completes_them() -> None:
    first, second = token("a"), token("b", "stop")
    exchange = read(first[:9], first[9:] + second, DONE)
    assert [(event.kind, event.time_s) for event in exchange.events] == [
        (EventKind.TEXT, 12.0),
        (EventKind.TEXT, 12.0),
        (EventKind.FINISH, 12.0),
        (EventKind.DONE, 13.0),
    ]
    assert exchange.done_s == 14.0
    assert exchange.failure is None


def test_what_the_connection_does_after_done_is_no_failure() -> None:
    assert read(token("a", "stop"), DONE, broken=RESET).failure is None
    assert read(token("a", "stop"), broken=RESET).failure is Failure.RESET


def test_nothing_counts_after_done() -> None:
    exchange = read(token("a", "stop"), DONE + token("b") + b"data: {broken\n\n", b"data: {broken\n\n")
    assert (text_of(exchange), exchange.failure) == ("a", None)


def test_done_without_finish_reason() -> None:
    assert read(token("a"), DONE).failure is Failure.NO_FINISH_REASON


def test_end_without_done_and_finish_reason() -> None:
    assert read(token("a")).failure is Failure.EARLY_EOF


def test_nothing_at_all_is_empty_and_not_cut_off() -> None:
    assert read().failure is Failure.EMPTY
    assert read(broken=RESET).failure is Failure.RESET


def test_empty_events_and_comments_keep_a_connection_alive() -> None:
    exchange = read(b": ping\n\ndata:\n\ndata: \n\n", token("a", "stop"), DONE)
    assert (text_of(exchange), exchange.failure) == ("a", None)


def test_event_named_error() -> None:
    exchange = read(token("a"), b'event: error\ndata: {"message": "out of memory"}\n\n')
    assert (exchange.failure, exchange.error) == (Failure.INBAND_ERROR, "out of memory")


def test_status_outranks_a_connection_that_broke_after_it() -> None:
    exchange = read(b'{"error": {"message": "queue full', broken=RESET, status=429)
    assert exchange.failure is Failure.HTTP_429
    assert exchange.error == 'HTTP 429: {"error": {"message": "queue full'


def test_error_body_is_kept_within_bounds() -> None:
    exchange = read(*[b"e" * 60_000] * 100, status=500)
    assert exchange.failure is Failure.HTTP_5XX
    assert exchange.error is not None
    assert len(exchange.error) == 500


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_reply_that_the_server_gave_up_on(reason: str) -> None:
    assert read(token("a", reason), DONE).failure is Failure.INBAND_ERROR


# --- deadlines ---

LIMITS = Timeouts(first_s=5.0, idle_s=2.0, total_s=30.0)


def deadline(*events: Event, stream: bool = True) -> tuple[float, Failure]:
    exchange = new_exchange(stream)
    exchange.events.extend(events)
    return next_deadline(exchange, LIMITS)


def test_first_output_is_due_first() -> None:
    assert deadline() == (15.0, Failure.TIMEOUT_FIRST)
    assert deadline(Event(EventKind.ROLE, 14.0, "assistant")) == (15.0, Failure.TIMEOUT_FIRST)


def test_then_each_event_puts_the_next_one_off() -> None:
    assert deadline(Event(EventKind.TEXT, 14.0, "a")) == (16.0, Failure.TIMEOUT_IDLE)
    assert deadline(Event(EventKind.TEXT, 14.0, "a"), Event(EventKind.FINISH, 15.0)) == (17.0, Failure.TIMEOUT_IDLE)


def test_up_to_the_total() -> None:
    assert deadline(Event(EventKind.TEXT, 39.0, "a")) == (40.0, Failure.TIMEOUT_TOTAL)
    assert deadline(stream=False) == (40.0, Failure.TIMEOUT_TOTAL)
