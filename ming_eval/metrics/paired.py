"""Two systems on the same items: the four cells, the difference, and whether it could be chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb, fsum, sqrt
from statistics import NormalDist

from ming_eval.metrics.intervals import cluster_error, student_t_quantile

_POWER = 0.8
_Z_SUM = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(_POWER)
ASSUMED_DISCORDANT = 0.10  # share of items on which two systems differ, where only one of them has been run


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
    """Mean of first - second over items, with its 95 % interval; bounds are None with fewer than two clusters."""

    value: float
    low: float | None
    high: float | None


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
    """Difference of means over pairs that are independent, or dependent within a cluster; None without pairs."""
    if not first:
        return None
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    members: dict[Hashable, list[float]] = {}
    for key, gap in zip(range(len(gaps)) if clusters is None else clusters, gaps, strict=True):
        members.setdefault(key, []).append(gap)
    value = fsum(gaps) / len(gaps)
    error = cluster_error([fsum(each) for each in members.values()], [float(len(each)) for each in members.values()])
    if error is None:
        return Difference(value, None, None)
    half = student_t_quantile(0.975, len(members) - 1) * error
    return Difference(value, max(-1.0, value - half), min(1.0, value + half))


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
