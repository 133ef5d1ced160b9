"""Intervals: they cover what they should as often as they should, and say nothing where they cannot."""

from __future__ import annotations

import random

import pytest

from ming_eval.metrics.uncertainty import intervals, over_passes
from ming_eval.types import RequestRecord
from tests.ming_eval.factories import make_record


def sample(rng: random.Random, count: int, mean_s: float = 1.0) -> list[RequestRecord]:
    times_s = [max(0.05, rng.gauss(mean_s, 0.1 * mean_s)) for _ in range(count)]
    return [make_record(id=str(i), first_output_s=t / 2, last_output_s=t, done_s=t) for i, t in enumerate(times_s)]


def test_names_and_order_of_the_bounds() -> None:
    found = intervals(sample(random.Random(0), 64), 100.0, seed=0)
    figures = {
        f"{name}.{figure}" for name in ("ttft_ms", "tpot_ms", "e2e_ms") for figure in ("mean", "p50", "p95", "p99")
    }
    assert set(found) == figures | {"output_tokens_per_s"}
    assert all(interval.low <= interval.high for interval in found.values())
    assert found["e2e_ms.mean"].low < 1000 < found["e2e_ms.mean"].high
    assert found["output_tokens_per_s"].low < 100.0 < found["output_tokens_per_s"].high


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    """Standard deviation 100 ms over 64 requests: 1.96 x 100 / 8 to either side."""
    widths = [
        (found := intervals(sample(random.Random(seed), 64), None, seed=seed)["e2e_ms.mean"]).high - found.low
        for seed in range(20)
    ]
    assert sum(widths) / 20 == pytest.approx(2 * 1.96 * 100 / 8, rel=0.1)


@pytest.mark.slow
def test_the_truth_is_inside_about_as_often_as_promised() -> None:
    inside = 0
    for seed in range(100):
        found = intervals(sample(random.Random(1000 + seed), 64), None, seed=seed)["e2e_ms.mean"]
        inside += found.low <= 1000 <= found.high
    assert 87 <= inside <= 100


def test_few_requests_have_no_interval() -> None:
    assert intervals(sample(random.Random(0), 7), 100.0, seed=0) == {}


def test_unknown_token_counts_give_no_interval_of_the_throughput() -> None:
    records = [*sample(random.Random(0), 20), make_record(num_output_tokens=None)]
    assert "output_tokens_per_s" not in intervals(records, 100.0, seed=0)


def test_over_passes_by_hand() -> None:
    """Mean 10, standard error 1/sqrt(3) x 2 = 1.1547, t(2) = 4.3027: 10 +- 4.968."""
    found = over_passes([8.0, 10.0, 12.0])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(10 - 4.9684, abs=1e-3), pytest.approx(10 + 4.9684, abs=1e-3))
    assert over_passes([5.0]) is None
    assert over_passes([5.0, None]) is None
    wide = over_passes([1.0, 3.0])
    assert wide is not None
    assert wide.low == 0.0  # a rate or a time is never negative
