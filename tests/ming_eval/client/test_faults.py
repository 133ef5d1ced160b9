"""Every way in which a request can fail, over real HTTP: found, named, and never passed on to the next request."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ming_eval.client import Exchange
from ming_eval.types import EventKind, Failure, Task
from tests.fakes import FakeServer, Fault, Script, every
from tests.ming_eval.client.helpers import PATIENT, QUICK, ask, client_of, exchange_with, run, send_all, text_of, words

FAULTS = [
    (Fault.HTTP_429, Failure.HTTP_429),
    (Fault.HTTP_500, Failure.HTTP_5XX),
    (Fault.RESET, Failure.RESET),
    (Fault.EARLY_EOF, Failure.EARLY_EOF),
    (Fault.MALFORMED, Failure.MALFORMED),
    (Fault.INBAND_ERROR, Failure.INBAND_ERROR),
    (Fault.EMPTY, Failure.EMPTY),
    (Fault.HANG, Failure.TIMEOUT_IDLE),
]

# Only the limit that a failure is about is short: on a busy machine the other one would often be the first.
LIMITS = {Failure.TIMEOUT_FIRST: QUICK, Failure.TIMEOUT_IDLE: replace(PATIENT, idle_s=0.2)}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(("fault", "failure"), FAULTS)
def test_every_fourth_of_sixteen_requests_fails(fault: Fault, failure: Failure, loop: str) -> None:
    async def play() -> tuple[list[Exchange], FakeServer]:
        script = every(4, Script(fault=fault), Script())
        limits = replace(PATIENT, idle_s=1.0) if fault is Fault.HANG else PATIENT
        async with FakeServer(script) as server, client_of(server, connections=4, timeouts=limits) as client:
            requests = [ask(f"q{i}") for i in range(16)]
            return await send_all(client, requests, concurrency=4), server

    exchanges, server = run(play(), loop)
    assert Counter(exchange.failure for exchange in exchanges) == {None: 12, failure: 4}
    assert len(server.chats) == 16  # nothing was retried
    assert server.max_concurrent == 4
    for exchange in exchanges:
        if exchange.failure is None:
            assert text_of(exchange) == words(16)
            assert exchange.error is None
        else:
            assert exchange.error
        assert exchange.done_s is not None
        assert exchange.done_s >= exchange.sent_s


@pytest.mark.parametrize(
    ("script", "failure", "error"),
    [
        (Script(fault=Fault.HTTP_400), Failure.HTTP_4XX, "HTTP 400: temperature must be between 0 and 2"),
        (Script(fault=Fault.HTTP_429), Failure.HTTP_429, "HTTP 429: too many requests"),
        (Script(fault=Fault.REDIRECT), Failure.HTTP_4XX, "HTTP 307: elsewhere"),
        (Script(fault=Fault.INBAND_ERROR), Failure.INBAND_ERROR, "engine died"),
        (Script(fault=Fault.CLEAN_EOF), Failure.EARLY_EOF, "without finish_reason"),
        (Script(fault=Fault.CLEAN_EOF, framing="eof"), Failure.EARLY_EOF, "without finish_reason"),
        (Script(fault=Fault.NO_ANSWER), Failure.TIMEOUT_FIRST, "no output within 0.4 s"),
        # Neither the role nor a comment counts as progress.
        (Script(comment="ping", fault=Fault.ROLE_ONLY), Failure.TIMEOUT_FIRST, "no output within 0.4 s"),
        (Script(fault=Fault.HANG), Failure.TIMEOUT_IDLE, "nothing more for 0.2 s"),
        (Script(fault=Fault.GZIP), Failure.MALFORMED, "gzip"),
        (Script(fault=Fault.NOT_HTTP), Failure.MALFORMED, "not HTTP"),
        (Script(num_tokens=0), Failure.EMPTY, "no output"),
        (Script(finish_reason=None), Failure.NO_FINISH_REASON, "no finish_reason"),
        (Script(finish_reason="abort"), Failure.INBAND_ERROR, "'abort'"),
    ],
)
@pytest.mark.slow
def test_failure_has_a_class_and_says_why(script: Script, failure: Failure, error: str) -> None:
    exchange = exchange_with(script, timeouts=LIMITS.get(failure, PATIENT))
    assert exchange.failure is failure
    assert error in (exchange.error or "")


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (Script(num_tokens=0), Failure.EMPTY),
        (Script(finish_reason=None), Failure.NO_FINISH_REASON),
        (Script(fault=Fault.MALFORMED), Failure.MALFORMED),
        (Script(fault=Fault.INBAND_ERROR), Failure.INBAND_ERROR),
        (Script(fault=Fault.HTTP_500), Failure.HTTP_5XX),
    ],
)
def test_whole_reply_fails_alike(script: Script, failure: Failure) -> None:
    assert exchange_with(script, ask(stream=False)).failure is failure


def test_tokens_before_the_fault_are_kept() -> None:
    exchange = exchange_with(Script(fault=Fault.RESET, fault_at=5))
    assert text_of(exchange) == words(5)
    assert exchange.http_status == 200


@pytest.mark.slow
def test_total_limit_ends_a_stream_that_keeps_going() -> None:
    limits = replace(PATIENT, total_s=3.0)  # in which the first output must be there
    exchange = exchange_with(Script(num_tokens=1000, gap_s=0.02), timeouts=limits)
    assert exchange.failure is Failure.TIMEOUT_TOTAL
    assert exchange.has_output()


@pytest.mark.slow
def test_whole_reply_is_held_to_the_total_limit_alone() -> None:
    assert (
        exchange_with(Script(first_s=0.7), ask(stream=False), timeouts=QUICK).failure is None
    )  # above first_s and idle_s


def test_speech_asked_and_none_came() -> None:
    exchange = exchange_with(Script(), ask(task=Task.T2S))
    assert exchange.failure is Failure.EMPTY
    assert "speech" in (exchange.error or "")
    assert exchange_with(Script(audio=(b"\0\0",)), ask(task=Task.T2S)).failure is None


def test_retry_after_is_kept_for_callers_that_may_retry() -> None:
    assert exchange_with(Script(fault=Fault.HTTP_429)).retry_after_s == 7.0
    assert exchange_with(Script()).retry_after_s is None


def test_stream_without_done_is_complete_with_a_finish_reason() -> None:
    exchange = exchange_with(Script(done=False))
    assert exchange.failure is None
    assert not exchange.has(EventKind.DONE)
