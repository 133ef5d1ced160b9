"""Two systems on the same items: the four cells, the difference, and whether it could be chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb, fsum, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

from ming_eval.metrics.intervals import (
    BOOTSTRAP_SEED,
    NUM_DRAWS,
    cluster_error,
    student_t_cdf,
    student_t_quantile,
)
from ming_eval.metrics.stats import wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_POWER = 0.8
_NO_ERROR = 1e-12  # of a standard error: what rounding leaves where nothing varies
_Z_SUM = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(_POWER)
ASSUMED_DISCORDANT = 0.10  # share of items on which two systems differ, where only one of them has been run
_COUNTS_AT_ONCE = 2_000_000

# What one item, or one cluster, adds to a metric that is a sum over a sum: right answers of 1, word errors of words.
Part = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Cells:
    """Items that both, only the first, only the second and neither system got right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Cells:
        """Count pairs of outcomes in the same order of items."""
        pairs = list(zip(first, second, strict=True))
        return cls(*(pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def total(self) -> int:
        """Number of pairs."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def num_discordant(self) -> int:
        """Pairs in which exactly one system is right."""
        return self.only_first + self.only_second


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first with a 95 % interval, and the probability of one so far from 0 without a difference.

    Bounds and probability are None with fewer than two independent pairs.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None


def mcnemar(cells: Cells) -> float:
    """Exact two-sided McNemar probability: binomial on the discordant pairs; 1 without any."""
    n, fewer = cells.num_discordant, min(cells.only_first, cells.only_second)
    if n == 0:
        return 1.0
    tail = sum(comb(n, k) for k in range(fewer + 1))
    return min(1.0, tail / (1 << (n - 1)))


def paired_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Difference | None:
    """Mean of second - first over pairs that are independent, or dependent within a cluster; None without pairs.

    Values lie in [0, 1]. Student's t with one degree of freedom less than there are clusters; where all clusters differ
    by the same, so that there is no variance to estimate from, the interval is as wide as Wilson's of none among so
    many clusters, and the probability that of the sign test.
    """
    if not first:
        return None
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    members: dict[Hashable, list[float]] = {}
    for key, gap in zip(range(len(gaps)) if clusters is None else clusters, gaps, strict=True):
        members.setdefault(key, []).append(gap)
    value = fsum(gaps) / len(gaps)
    error = cluster_error([fsum(each) for each in members.values()], [float(len(each)) for each in members.values()])
    if error is None:
        return Difference(value, None, None, None)
    half, p = _without_variance(value, len(members)) if error < _NO_ERROR else _by_t(value, error, len(members) - 1)
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p)


def paired_bootstrap(
    first: Sequence[Part], second: Sequence[Part], clusters: Sequence[Hashable] | None = None
) -> Difference | None:
    """Difference of two ratios of sums, the same draws of items or clusters for both systems; percentile interval.

    None without pairs or where a denominator is 0. The probability is twice the share of draws on the other side of 0,
    both counts one higher, so that 10,000 draws never claim a 0; and never below that of the sign test, which is the
    least that so few pairs can show.
    """
    import numpy as np  # costs a tenth of a second that the command line need not pay

    rows = _sums(first, second, clusters)
    totals = rows.sum(axis=0)
    if not len(rows) or not totals[1] or not totals[3]:
        return None
    value = float(totals[2] / totals[3] - totals[0] / totals[1])
    if len(rows) < 2:
        return Difference(value, None, None, None)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)  # equal rows are drawn together: four for right/wrong
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    step = max(1, _COUNTS_AT_ONCE // len(kinds))
    sizes = [min(step, NUM_DRAWS - start) for start in range(0, NUM_DRAWS, step)]
    drawn = np.concatenate([rng.multinomial(len(rows), counts / len(rows), size=size) @ kinds for size in sizes])
    gaps = drawn[:, 2] / drawn[:, 3] - drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(gaps, [0.025, 0.975])
    tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
    p = max(_least_probability(len(rows)), 2 * (int(tail) + 1) / (NUM_DRAWS + 1))
    return Difference(value, float(low), float(high), min(1.0, p))


def _sums(first: Sequence[Part], second: Sequence[Part], clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    """[clusters, 4]: numerator and denominator of either system, summed over each cluster."""
    import numpy as np

    keys = range(len(first)) if clusters is None else clusters
    places: dict[Hashable, int] = {}
    index = [places.setdefault(key, len(places)) for key in keys]
    rows = np.zeros((len(places), 4))
    np.add.at(rows, index, np.asarray([(*a, *b) for a, b in zip(first, second, strict=True)]).reshape(-1, 4))
    return rows


def _by_t(value: float, error: float, freedom: int) -> tuple[float, float]:
    """Half the width of the interval, and the probability."""
    p = max(0.0, 2 * (1 - student_t_cdf(abs(value / error), freedom)))
    return student_t_quantile(0.975, freedom) * error, p


def _without_variance(value: float, num_clusters: int) -> tuple[float, float]:
    unseen = wilson(0, num_clusters)
    assert unseen is not None, "there are clusters"
    return unseen.high, 1.0 if value == 0.0 else _least_probability(num_clusters)


def _least_probability(count: int) -> float:
    """Of the two-sided sign test when all of `count` pairs differ the same way."""
    return 2.0 ** (1 - count)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities adjusted for their number by Holm's step-down procedure, in the order given."""
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    adjusted = [0.0] * len(probabilities)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = largest
    return adjusted


def detectable_difference(n: int, discordant_share: float = ASSUMED_DISCORDANT) -> float | None:
    """Smallest paired difference seen with 80 % power at 5 % in `n` shared items; None without items.

    From the variance of a paired difference d, (discordant share - d squared) / n. A difference cannot exceed the
    share of discordant items: where it would have to, the share that it takes is assumed instead.
    """
    if n == 0:
        return None
    least = _Z_SUM**2 / (n + _Z_SUM**2)
    return sqrt(least * max(discordant_share, least))


def items_needed(difference: float, discordant_share: float = ASSUMED_DISCORDANT) -> int:
    """Shared items that show `difference` with 80 % power at 5 %."""
    return round(_Z_SUM**2 * (discordant_share / difference**2 - 1))
