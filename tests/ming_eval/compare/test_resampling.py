"""Intervals by hand, block lengths of series with known dependence, errors against formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ming_eval.compare.resampling import (
    LogRatio,
    block_length,
    draw,
    log_ratio,
    mean_log_ratio,
    pooled_quantiles,
    ratio_of_sums,
)


def test_interval_and_probability_are_those_of_students_t() -> None:
    """Ten degrees of freedom: the 95 % interval reaches 2.228 errors, and there the probability is 5 %."""
    effect = LogRatio(0.2228, 0.1, 10).effect()
    assert (effect.low, effect.high) == pytest.approx((1.0, math.exp(0.4456)), rel=1e-4)
    assert effect.p == pytest.approx(0.05, abs=1e-4)
    assert LogRatio(0.3, 0.1, 10).effect().is_shown
    assert not LogRatio(0.2, 0.1, 10).effect().is_shown


def test_independent_requests_are_drawn_one_by_one() -> None:
    lengths = [block_length(np.random.default_rng(seed).normal(size=200)) for seed in range(40)]
    assert sum(length == 1 for length in lengths) >= 32  # a test at 5 % for each of four lengths


def test_dependent_neighbours_are_drawn_together() -> None:
    """A shock that 16 neighbours share needs blocks of about that size."""
    rng = np.random.default_rng(1)
    series = np.repeat(rng.normal(size=32), 16) + 0.1 * rng.normal(size=512)
    assert 8 <= block_length(list(series)) <= 64


def test_a_constant_series_has_no_blocks() -> None:
    assert block_length([1.0] * 50) == 1


def test_blocks_hold_neighbours_and_the_sample_size_stays() -> None:
    draws = draw(10, 5, seed=0)
    assert (draws.counts.sum(axis=1) == 10).all()
    row = draws.counts[0]
    steps = sum(row[i] != row[i - 1] for i in range(10))  # two circular blocks have at most four edges
    assert steps <= 4


def test_error_of_a_mean_is_the_one_of_the_formula() -> None:
    """A mean of n values with spread s has the standard error s / sqrt(n)."""
    values = np.random.default_rng(3).normal(100, 10, size=400)
    ones = np.ones(400)
    draws = draw(400, 1, seed=0)
    mean, means = ratio_of_sums(values, ones, draws)
    found = log_ratio(1.0, mean, np.ones(len(means)), means, draws)
    assert found is not None
    assert found.error == pytest.approx(values.std() / math.sqrt(400) / mean, rel=0.08)


def test_one_draw_for_both_systems_cancels_what_they_share() -> None:
    """The second system needs 1.1 x the time for every request, long or short: nothing is left to be unsure of."""
    first = np.random.default_rng(5).lognormal(size=50)
    draws = draw(50, 1, seed=0)
    ones = np.ones(50)
    (a, many_a), (b, many_b) = ratio_of_sums(first, ones, draws), ratio_of_sums(1.1 * first, ones, draws)
    found = log_ratio(a, b, many_a, many_b, draws)
    assert found is not None
    effect = found.effect()
    assert (effect.ratio, effect.low, effect.high) == pytest.approx((1.1, 1.1, 1.1))


def test_quantiles_of_a_resample_by_hand() -> None:
    """Requests with samples (1, 2), (3,), (10,): where the third is drawn three times, the median is its sample."""
    draws = draw(3, 1, seed=0)
    (medians,) = pooled_quantiles([[1.0, 2.0], [3.0], [10.0]], [0.5], draws)
    only_third = draws.counts[:, 2] == 3
    only_first = draws.counts[:, 0] == 3
    assert only_third.any()
    assert only_first.any()
    assert set(medians[only_third]) == {10.0}
    assert set(medians[only_first]) == {1.0}


def test_points_weigh_the_same() -> None:
    found = mean_log_ratio([LogRatio(0.2, 0.03, 63), LogRatio(0.0, 0.04, 63)])
    assert found is not None
    assert (found.value, found.error) == pytest.approx((0.1, 0.025))
    assert mean_log_ratio([]) is None
