"""Intervals against figures worked out by hand, scipy and statsmodels."""

from __future__ import annotations

import random
from math import sqrt

import numpy as np
import pytest

from ming_eval.metrics import intervals
from ming_eval.metrics.intervals import Estimate


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(5, 17, 13.3, 53.1), (225, 285, 73.8, 83.3), (29, 51, 43.3, 69.5), (0, 3, 0.0, 56.1), (5, 5, 56.6, 100.0)],
)
def test_wilson_reference_values(successes: int, n: int, low: float, high: float) -> None:
    found = intervals.proportion(successes, n)
    assert found is not None
    assert found.value == successes / n
    assert (round(100 * found.low, 1), round(100 * found.high, 1)) == (low, high)


def test_no_trials_no_interval() -> None:
    assert intervals.proportion(0, 0) is None
    assert intervals.mean([]) is None
    assert intervals.clustered([], []) is None
    assert intervals.ratio_of_sums([], []) is None
    assert intervals.stratified({"a": []}, {"a": 1.0}) is None


@pytest.mark.slow  # for the time that the library takes to import
def test_wilson_agrees_with_statsmodels() -> None:
    proportions = pytest.importorskip("statsmodels.stats.proportion")
    rng = random.Random(1)
    for _ in range(100):
        n = rng.randint(1, 500)
        successes = rng.randint(0, n)
        found = intervals.proportion(successes, n)
        assert found is not None
        expected = proportions.proportion_confint(successes, n, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow  # for the time that the library takes to import
@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 29, 30, 101, 899, 5000])
def test_student_t_agrees_with_scipy(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for p in (0.9, 0.975, 0.995):
        assert intervals.student_t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9)


@pytest.mark.slow  # for the time that the library takes to import
def test_cluster_robust_error_agrees_with_statsmodels() -> None:
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(2)
    for num_clusters in (30, 75, 300):
        sizes = rng.integers(1, 6, num_clusters)
        clusters = np.repeat(np.arange(num_clusters), sizes)
        values = (rng.random(len(clusters)) < np.repeat(rng.random(num_clusters), sizes)).astype(float)
        model = api.OLS(values, np.ones(len(values)))
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
        found = intervals.clustered(values.tolist(), clusters.tolist())
        assert found is not None
        assert found.method == "cluster-robust"
        assert found.value == pytest.approx(fit.params[0])
        assert found.standard_error == pytest.approx(fit.bse[0], rel=1e-9)
        assert (found.low, found.high) == pytest.approx(fit.conf_int()[0], rel=1e-9)


def test_dependent_items_are_worth_less() -> None:
    """Forty clusters that are all right or all wrong, of five items each."""
    values = [float(cluster % 2) for cluster in range(40) for _ in range(5)]
    clusters = [cluster for cluster in range(40) for _ in range(5)]
    apart, together = intervals.mean(values), intervals.clustered(values, clusters)
    assert apart is not None
    assert together is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_few_clusters_are_resampled() -> None:
    values = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    found = intervals.clustered(values, [0, 0, 1, 1, 2, 2])
    assert found is not None
    assert found.method == "cluster bootstrap"
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)  # 1/27 of the draws are all right: beyond 2.5 %
    assert found == intervals.clustered(values, [0, 0, 1, 1, 2, 2])


def test_clusters_that_do_not_differ_have_an_interval_all_the_same() -> None:
    found = intervals.clustered([1.0] * 12, [i // 3 for i in range(12)])
    assert found == Estimate(1.0, pytest.approx(0.5101, abs=1e-4), 1.0, "Wilson over clusters")


def test_graded_values_use_their_standard_error() -> None:
    values = [0.25, 0.5, 0.75, 1.0] * 10
    found = intervals.mean(values)
    assert found is not None
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / sqrt(40))


def test_stratified_by_hand() -> None:
    """Two strata of 10 and 30 items, of which 4 and 2 were asked: 3 of 4 and 1 of 2 right.

    Means 0.75 and 0.5, variances 0.25 and 0.5; finite population factors 0.6 and 14/15.
    """
    values = {"a": [1.0, 1.0, 1.0, 0.0], "b": [1.0, 0.0]}
    sizes = {"a": 10, "b": 30}
    found = intervals.stratified(values, {"a": 0.25, "b": 0.75}, sizes)
    assert found is not None
    assert found.value == pytest.approx(0.25 * 0.75 + 0.75 * 0.5)
    variance = 0.25**2 * 0.25 / 4 * 0.6 + 0.75**2 * 0.5 / 2 * (1 - 2 / 30)
    assert found.standard_error == pytest.approx(sqrt(variance))


def test_strata_of_clusters_by_hand() -> None:
    """Two videos of three questions in `a`, all right and all wrong; one video in `b`, which borrows their variance.

    In `a` the mean is one half, the clusters' errors are 1.5 and -1.5: variance 2/1 x 4.5 / 36 = 0.25, between
    clusters 0.5.
    """
    values = {"a": [1.0] * 3 + [0.0] * 3, "b": [1.0, 0.0, 1.0]}
    clusters = {"a": ["u", "u", "u", "v", "v", "v"], "b": ["w", "w", "w"]}
    found = intervals.stratified(values, {"a": 0.5, "b": 0.5}, clusters=clusters)
    assert found is not None
    assert found.value == pytest.approx(0.5 * 0.5 + 0.5 * 2 / 3)
    assert found.standard_error == pytest.approx(sqrt(0.25 * 0.25 + 0.25 * 0.5))
    assert found.method == "stratified normal, cluster-robust"


def test_a_stratum_of_one_borrows_the_pooled_variance() -> None:
    values = {"a": [1.0, 0.0], "b": [1.0]}
    found = intervals.stratified(values, {"a": 0.5, "b": 0.5})
    assert found is not None
    assert found.standard_error == pytest.approx(sqrt(0.25 * 0.5 / 2 + 0.25 * 0.5))


def test_strata_without_variance_are_not_certain() -> None:
    found = intervals.stratified({"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"a": 0.5, "b": 0.5})
    assert found is not None
    assert (found.low, found.method) == (pytest.approx(0.5101, abs=1e-4), "Wilson")


def test_ratio_of_sums_weighs_by_length() -> None:
    """One long utterance without errors and one short one that is all wrong: 2 errors in 12 words."""
    found = intervals.ratio_of_sums([0.0, 2.0], [10.0, 2.0])
    assert found is not None
    assert found.value == pytest.approx(2 / 12)
    assert (found.low, found.high) == (0.0, 1.0)


def test_ratio_of_sums_over_speakers() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(5, 20, 200).astype(float)
    speakers = np.repeat(np.arange(40), 5)
    errors = np.minimum(words, rng.poisson(np.repeat(rng.random(40) * 3, 5)))
    alone = intervals.ratio_of_sums(errors.tolist(), words.tolist())
    grouped = intervals.ratio_of_sums(errors.tolist(), words.tolist(), speakers.tolist())
    assert alone is not None
    assert grouped is not None
    assert alone.value == grouped.value == pytest.approx(errors.sum() / words.sum())
    assert grouped.high - grouped.low > alone.high - alone.low


def test_error_rates_without_any_error_are_not_certain() -> None:
    found = intervals.ratio_of_sums([0.0] * 20, [float(5 + i) for i in range(20)])
    assert found == Estimate(0.0, 0.0, pytest.approx(0.1611, abs=1e-4), "Wilson over items")


def test_one_cluster_has_no_interval() -> None:
    found = intervals.ratio_of_sums([1.0, 1.0], [4.0, 4.0], ["x", "x"])
    assert found == Estimate(0.25, 0.25, 0.25, "none: one cluster")
