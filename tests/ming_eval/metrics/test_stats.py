"""Figures over many requests, each answer worked out by hand or known from the literature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.errors import UsageError
from ming_eval.metrics.stats import (
    Interval,
    Summary,
    achieved_concurrency,
    bootstrap,
    goodput,
    percentile,
    steady,
    summarise,
    throughput,
    tokens_per_event,
    wilson,
)
from ming_eval.types import RequestRecord
from tests.ming_eval.metrics.builders import failed, record


def span(start_s: float, end_s: float, num_tokens: int = 10) -> RequestRecord:
    """A request whose tokens all arrive at its end."""
    return record(sent_s=start_s, times_s=(end_s,), tokens=(num_tokens,))


# --- values ---


def test_summary() -> None:
    assert summarise([4.0, None, 1.0, 3.0, 2.0]) == Summary(
        mean=2.5, p50=2.5, p95=pytest.approx(3.85), p99=pytest.approx(3.97), min=1.0, max=4.0, count=4
    )


def test_no_values_no_summary() -> None:
    assert summarise([None, None]) is None
    assert percentile([], 50) is None
    assert percentile([7.0], 99) == 7.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilson_without_trials() -> None:
    assert wilson(0, 0) is None


def test_bootstrap_is_seeded() -> None:
    values = [i**0.5 for i in range(100)]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_bootstrap_of_the_mean_is_the_normal_interval() -> None:
    values = list(np.random.default_rng(0).normal(10, 2, size=400))
    interval = bootstrap(values, seed=3)
    assert interval is not None
    half = 1.96 * float(np.std(values)) / 20
    assert interval.low == pytest.approx(np.mean(values) - half, abs=0.03)
    assert interval.high == pytest.approx(np.mean(values) + half, abs=0.03)


def test_bootstrap_takes_any_statistic_and_level() -> None:
    values = [0.0] * 30 + [1.0] * 70
    highest = bootstrap(values, lambda draws: draws.max(axis=-1), seed=1)
    assert highest == Interval(1.0, 1.0)
    wide, narrow = bootstrap(values, seed=1, level=0.99), bootstrap(values, seed=1, level=0.5)
    assert wide is not None
    assert narrow is not None
    assert wide.low < narrow.low < 0.7 < narrow.high < wide.high


def test_bootstrap_needs_two_values() -> None:
    assert bootstrap([1.0], seed=1) is None


# --- throughput ---


def test_whole_run_lasts_to_the_end_of_the_last_request() -> None:
    total = throughput([span(1.0, 2.0), span(1.5, 4.0, num_tokens=30), failed(sent_s=2.0, times_s=(6.0,))])
    assert total is not None
    assert (total.wall_s, total.num_requests, total.num_tokens) == (5.0, 2, 40)
    assert total.requests_per_s == pytest.approx(0.4)
    assert total.output_tokens_per_s == pytest.approx(8.0)


def test_unknown_token_counts_are_not_zero() -> None:
    total = throughput([span(0.0, 1.0), record(num_output_tokens=None)])
    assert total is not None
    assert total.num_tokens is total.output_tokens_per_s is None
    assert throughput([]) is None


def test_steady_window() -> None:
    # Slot a ends requests at 1, 2, ..., 8; slot b at 1.5, 3, ..., 9. Both have ended one at 1.5; a has no more at 8.
    a = [span(i, i + 1.0) for i in range(8)]
    b = [span(1.5 * i, 1.5 * i + 1.5, num_tokens=20) for i in range(6)]
    window = steady([a, b]).throughput
    assert window is not None
    assert (window.start_s, window.end_s) == (1.5, 8.0)
    assert window.num_requests == 7 + 4  # a: 2 to 8; b: 3, 4.5, 6, 7.5
    assert window.num_tokens == 7 * 10 + 4 * 20
    assert window.output_tokens_per_s == pytest.approx(150 / 6.5)


def test_steady_tokens_count_by_their_own_stamps() -> None:
    long = record(sent_s=0.0, times_s=(1.0, 2.0, 3.0, 4.0, 9.0), done_s=9.0)
    slots = [[span(0.0, 1.5), *(span(i + 0.5, i + 1.5) for i in range(1, 6))], [span(0.0, 0.5), long]]
    window = steady(slots).throughput
    assert window is not None
    assert (window.start_s, window.end_s) == (1.5, 6.5)
    assert window.num_tokens == 5 * 10 + 3  # of the long one those at 2, 3 and 4


@pytest.mark.parametrize(
    ("slots", "reason"),
    [
        ([], "every slot"),
        ([[span(0.0, 1.0)], []], "every slot"),
        ([[span(0.0, 1.0), span(1.0, 2.0)], [span(0.0, 1.0), span(1.0, 2.0)]], "shorter than 2 x mean E2E"),
        ([[failed()]], "no request succeeded"),
    ],
)
def test_no_steady_figure_has_a_reason(slots: list[list[RequestRecord]], reason: str) -> None:
    result = steady(slots)
    assert result.throughput is None
    assert reason in (result.reason or "")


def test_achieved_concurrency() -> None:
    # One request from 0, two from 1, one from 2 to 3, two again from 3; nothing is sent after 4.
    records = [span(0.0, 2.0), span(1.0, 3.0), span(3.0, 5.0), span(3.0, 6.0), span(4.0, 4.5)]
    achieved = achieved_concurrency(records)
    assert achieved is not None
    assert achieved.max == 3
    assert achieved.mean == pytest.approx((1 + 2 + 1 + 2) / 4)


def test_refilled_slots_are_not_counted_twice() -> None:
    achieved = achieved_concurrency([span(float(i), i + 1.0) for i in range(10)])
    assert achieved is not None
    assert (achieved.mean, achieved.max) == (1.0, 1)


def test_tokens_per_event() -> None:
    assert tokens_per_event([record(times_s=(1.0, 2.0), tokens=(4, 2)), failed()]) == 3.0
    assert tokens_per_event([failed()]) is None


# --- goodput ---


def test_goodput_needs_every_limit() -> None:
    records = [
        record(times_s=(0.4, 0.5)),  # TTFT 0.4, TPOT 0.1
        record(times_s=(0.6, 0.7)),  # too late
        record(times_s=(0.4, 0.9)),  # too slow
        failed(times_s=(0.1, 0.2)),
    ]
    result = goodput(records, {"ttft": 0.5, "tpot": 0.2})
    assert result is not None
    assert (result.num_good, result.num_requests, result.share) == (1, 4, 0.25)
    assert result.interval == wilson(1, 4)


def test_goodput_of_values_that_do_not_exist() -> None:
    single = record(times_s=(0.4,))
    by_tpot, by_audio = goodput([single], {"tpot": 0.1}), goodput([single], {"ttfa": 9.0})
    assert by_tpot is not None
    assert by_audio is not None
    assert (by_tpot.num_good, by_audio.num_good) == (1, 0)
    assert goodput([], {"ttft": 1.0}) is None


def test_goodput_knows_its_limits() -> None:
    with pytest.raises(UsageError, match="unknown limit 'ttfx': choose from ttft"):
        goodput([record()], {"ttft": 1.0, "ttfx": 1.0})
