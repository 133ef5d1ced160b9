"""Streams that benchmark tools get wrong: 60 tokens, the first at 100 ms, then one each 10 ms, four requests at once.

The truth is worked out by hand from the schedule; bytes go through the client's own reader.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ming_eval.metrics import latency
from ming_eval.metrics.stats import Summary, summarise, tokens_per_event
from ming_eval.types import RequestRecord, TokenSource
from tests.ming_eval.metrics.builders import Stream, record_of

FIRST_MS, GAP_MS, NUM_TOKENS = 100.0, 10.0, 60


@dataclass
class Figures:
    """What a report prints, in milliseconds."""

    ttft: Summary
    ttfc: Summary
    tpot: Summary
    itl: Summary
    icl: Summary
    e2e: Summary
    stream_end_lag: Summary
    records: list[RequestRecord]


def measure(stream: Stream) -> Figures:
    records = [record_of(stream.played(sent_s=1000.0 + 0.003 * i), zero_s=999.0) for i in range(4)]
    assert all(record.ok for record in records)

    def ms(values: list[float | None]) -> Summary:
        summary = summarise(None if value is None else 1e3 * value for value in values)
        assert summary is not None
        return summary

    return Figures(
        ttft=ms([latency.ttft_s(record) for record in records]),
        ttfc=ms([latency.ttfc_s(record) for record in records]),
        tpot=ms([latency.tpot_s(record) for record in records]),
        itl=ms([sample for record in records for sample in latency.itl_samples_s(record)]),
        icl=ms([sample for record in records for sample in latency.icl_samples_s(record)]),
        e2e=ms([latency.e2e_s(record) for record in records]),
        stream_end_lag=ms([latency.stream_end_lag_s(record) for record in records]),
        records=records,
    )


def token_ms(index: int) -> float:
    return FIRST_MS + GAP_MS * index


def tokens(stream: Stream, count: int = NUM_TOKENS) -> Stream:
    for i in range(count):
        stream.delta(token_ms(i), content=f"w{i} ")
    return stream


def closed(stream: Stream, time_ms: float, num_tokens: int = NUM_TOKENS) -> Stream:
    return stream.delta(time_ms, "stop").usage(time_ms, num_tokens).end(time_ms)


def test_plain_stream() -> None:
    figures = measure(closed(tokens(Stream()), token_ms(59)))
    assert figures.ttft.mean == pytest.approx(100)
    assert (figures.tpot.mean, figures.itl.mean) == (pytest.approx(10), pytest.approx(10))
    assert figures.itl.count == 4 * 59
    assert figures.e2e.mean == pytest.approx(690)


def test_five_tokens_per_event() -> None:
    stream = Stream()
    for i in range(12):
        stream.delta(FIRST_MS + 50 * i, content="five tokens in one go ")
    figures = measure(closed(stream, FIRST_MS + 50 * 11))
    assert (figures.icl.mean, figures.icl.p99) == (pytest.approx(50), pytest.approx(50))
    assert (figures.itl.mean, figures.itl.p99) == (pytest.approx(10), pytest.approx(10))
    assert figures.tpot.mean == pytest.approx(10)
    assert figures.itl.count == 4 * 55
    assert tokens_per_event(figures.records) == pytest.approx(5)


def test_empty_role_event_first() -> None:
    stream = Stream().delta(5, role="assistant", content="")
    figures = measure(closed(tokens(stream), token_ms(59)))
    assert (figures.ttft.mean, figures.ttft.max) == (pytest.approx(100), pytest.approx(100))


def test_late_usage_and_done() -> None:
    stream = tokens(Stream()).delta(token_ms(59), "stop").usage(token_ms(59) + 300, NUM_TOKENS).end(token_ms(59) + 300)
    figures = measure(stream)
    assert figures.tpot.mean == pytest.approx(10)
    assert figures.e2e.mean == pytest.approx(690)
    assert figures.stream_end_lag.mean == pytest.approx(300)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_before_content(key: str) -> None:
    stream = Stream()
    for i in range(NUM_TOKENS):
        stream.delta(token_ms(i), **{key if i < 30 else "content": f"w{i} "})
    figures = measure(closed(stream, token_ms(59)))
    assert figures.ttft.mean == pytest.approx(100)
    assert figures.ttfc.mean == pytest.approx(400)
    assert figures.tpot.mean == pytest.approx(10)


@pytest.mark.parametrize("with_usage", [True, False])
def test_server_that_stops_halfway(with_usage: bool) -> None:
    stream = tokens(Stream(), 30).delta(token_ms(29), "stop")
    if with_usage:
        stream.usage(token_ms(29), 30)
    figures = measure(stream.end(token_ms(29)))
    assert [record.num_output_tokens for record in figures.records] == [30] * 4
    assert figures.tpot.mean == pytest.approx(10)
    source = TokenSource.USAGE if with_usage else TokenSource.EVENTS
    assert {record.token_source for record in figures.records} == {source}


def test_stall_before_every_twentieth_token() -> None:
    stream, time_ms = Stream(), FIRST_MS
    for i in range(NUM_TOKENS):
        if i:
            time_ms += 400 if (i + 1) % 20 == 0 else GAP_MS
        stream.delta(time_ms, content=f"w{i} ")
    figures = measure(closed(stream, time_ms))
    assert figures.icl.p99 == pytest.approx(400)
    assert figures.icl.p50 == pytest.approx(10)
