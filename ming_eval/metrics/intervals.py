"""How sure a mean of scores is: independent items, clusters of dependent ones, strata, ratios of sums. All at 95 %.

Items are values in [0, 1] unless a function says otherwise; every interval names the method that it came from.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import atan, cos, fsum, isclose, pi, sin, sqrt
from typing import TYPE_CHECKING

from ming_eval.metrics.stats import wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_DRAWS = 10_000
BOOTSTRAP_SEED = 20_260_601
NO_INTERVAL = "none: one cluster"
FEW_CLUSTERS = 30  # below this many, cluster-robust standard errors are too small

_Z_95 = 1.959963984540054
_RESAMPLES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its 95 % interval and how that was found."""

    value: float
    low: float
    high: float
    method: str
    standard_error: float | None = None


# --- Proportions and means ---------------------------------------------------------------------------------------


def proportion(successes: int, n: int) -> Estimate | None:
    """Share of successes among independent trials, with its Wilson interval; None without trials."""
    interval = wilson(successes, n)
    return None if interval is None else Estimate(successes / n, interval.low, interval.high, "Wilson")


def mean(values: Sequence[float]) -> Estimate | None:
    """Mean of independent values: Wilson where all are 0 or 1, else by their standard error; None without values."""
    if all(value in (0.0, 1.0) for value in values):
        return proportion(round(fsum(values)), len(values))
    return clustered(values, range(len(values)), method="standard error")


def clustered(values: Sequence[float], clusters: Sequence[Hashable], method: str = "cluster-robust") -> Estimate | None:
    """Mean of values that are dependent within a cluster; None without values.

    Standard error with the factor C / (C - 1), Student's t with C - 1 degrees of freedom; with fewer than 30 clusters
    the percentile cluster bootstrap. Where clusters do not differ, Wilson's interval over clusters: there is no
    variance to estimate from.
    """
    if not values:
        return None
    sums, sizes = _sums_by_cluster(values, clusters)
    num_clusters, n = len(sums), len(values)
    centre = fsum(values) / n
    error = cluster_error(sums, sizes)
    if error is None or error == 0.0:
        return _without_variance(centre, num_clusters, "Wilson over clusters")
    if num_clusters < FEW_CLUSTERS:
        low, high = _ratio_quantiles(sums, sizes)
        return Estimate(centre, low, high, "cluster bootstrap", error)
    half = student_t_quantile(0.975, num_clusters - 1) * error
    return Estimate(centre, max(0.0, centre - half), min(1.0, centre + half), method, error)


def cluster_error(sums: Sequence[float], sizes: Sequence[float]) -> float | None:
    """Cluster-robust standard error of sum(sums) / sum(sizes); None with fewer than two clusters."""
    num_clusters, n = len(sums), fsum(sizes)
    if num_clusters < 2:
        return None
    centre = fsum(sums) / n
    squares = fsum((total - size * centre) ** 2 for total, size in zip(sums, sizes, strict=True))
    return sqrt(num_clusters / (num_clusters - 1) * squares) / n


def stratified(
    values: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
    clusters: Mapping[str, Sequence[Hashable]] | None = None,
) -> Estimate | None:
    """Weighted mean of stratum means; `weights` sum to 1. None without values.

    Variance: squared weight x variance of the stratum's mean, summed over strata, with the finite population factor
    where `sizes` gives the strata's full sizes. The variance of a mean is cluster-robust, every value a cluster of its
    own unless `clusters` says which values depend on each other. A stratum with one cluster borrows the pooled variance
    between clusters. Where no stratum varies, Wilson's interval over all clusters: nothing can be estimated.
    """
    strata = {
        name: _sums_by_cluster(each, range(len(each)) if clusters is None else clusters[name])
        for name, each in values.items()
        if each
    }
    if not strata:
        return None
    counts = {name: fsum(members) for name, (_, members) in strata.items()}
    centre = fsum(weights[name] * fsum(sums) / counts[name] for name, (sums, _) in strata.items())
    pooled = _pooled_variance(list(strata.values()))
    variance = 0.0
    for name, (sums, members) in strata.items():
        error = cluster_error(sums, members)
        of_mean = pooled if error is None else error**2
        left = 1.0 - counts[name] / sizes[name] if sizes is not None else 1.0
        variance += weights[name] ** 2 * of_mean * left
    error = sqrt(variance)
    if error == 0.0:
        name = "Wilson" if clusters is None else "Wilson over clusters"
        return _without_variance(centre, sum(len(sums) for sums, _ in strata.values()), name)
    method = "stratified normal" if clusters is None else "stratified normal, cluster-robust"
    return Estimate(centre, max(0.0, centre - _Z_95 * error), min(1.0, centre + _Z_95 * error), method, error)


def ratio_of_sums(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Estimate | None:
    """Sum over sum, such as word errors over words, by a percentile bootstrap over clusters or over the pairs.

    None without pairs. With one cluster there is no interval (`NO_INTERVAL`): both bounds are the value. Where clusters
    do not differ, such as without any error, Wilson's over clusters or pairs, since resampling them shows nothing.
    """
    keys = list(range(len(numerators))) if clusters is None else clusters
    over, _ = _sums_by_cluster(numerators, keys)
    under, _ = _sums_by_cluster(denominators, keys)
    if fsum(under) == 0:
        return None
    value = fsum(over) / fsum(under)
    if len(over) < 2:
        return Estimate(value, value, value, NO_INTERVAL)
    low, high = _ratio_quantiles(over, under)
    if isclose(low, high, abs_tol=1e-12):
        name = "Wilson over items" if clusters is None else "Wilson over clusters"
        found = _without_variance(min(value, 1.0), len(over), name)
        return Estimate(value, found.low, max(value, found.high), name)
    return Estimate(value, low, high, "bootstrap" if clusters is None else "cluster bootstrap")


def _without_variance(centre: float, n: int, method: str) -> Estimate:
    interval = wilson(round(centre * n), n)
    assert interval is not None, "there is at least one value"
    return Estimate(centre, min(centre, interval.low), max(centre, interval.high), method)


def _sums_by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[list[float], list[float]]:
    """Sum and number of values of each cluster, in the order in which clusters appear."""
    members: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    return [fsum(each) for each in members.values()], [float(len(each)) for each in members.values()]


def _variance(values: Sequence[float]) -> float:
    centre = fsum(values) / len(values)
    return fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def _pooled_variance(strata: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Variance between clusters within strata, from all strata with several; else between all clusters."""
    several = [(len(sums), error) for sums, sizes in strata if (error := cluster_error(sums, sizes)) is not None]
    if several:
        return fsum((num - 1) * num * error**2 for num, error in several) / sum(num - 1 for num, _ in several)
    means = [total / size for sums, sizes in strata for total, size in zip(sums, sizes, strict=True)]
    return _variance(means) if len(means) > 1 else 0.25  # the largest that a value in [0, 1] can have


def _ratio_quantiles(over: Sequence[float], under: Sequence[float]) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of sum / sum over resampled pairs."""
    import numpy as np  # costs a tenth of a second that the command line need not pay

    rng = np.random.default_rng(BOOTSTRAP_SEED)
    numerators, denominators = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    step = max(1, _RESAMPLES_AT_ONCE // len(numerators))
    ratios: list[NDArray[np.float64]] = []
    for start in range(0, NUM_DRAWS, step):
        picks = rng.integers(len(numerators), size=(min(step, NUM_DRAWS - start), len(numerators)))
        ratios.append(numerators[picks].sum(axis=1) / denominators[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return float(low), float(high)


# --- Student's t -------------------------------------------------------------------------------------------------


def student_t_quantile(p: float, df: int) -> float:
    """The value that Student's t with `df` degrees of freedom stays below with probability `p` > 0.5."""
    assert 0.5 < p < 1
    low, high = 0.0, 1.0
    while student_t_cdf(high, df) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def student_t_cdf(t: float, df: int) -> float:
    """P(T <= t) for t >= 0, by the finite series for whole `df` (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = atan(t / sqrt(df))
    cos2 = cos(angle) ** 2
    term, series = 1.0, 1.0
    for k in range(df % 2 + 2, df, 2):
        term *= (k - 1) / k * cos2
        series += term
    if df % 2 == 0:
        return 0.5 + 0.5 * sin(angle) * series
    return 0.5 + (angle + (sin(angle) * cos(angle) * series if df > 1 else 0.0)) / pi
