"""Paired bootstrap on the scale of logarithms: how sure a ratio of two systems is.

The same draw of requests is used for both systems. Neighbours in time that depend on each other are drawn in blocks,
whose length is read off the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from ming_eval.metrics.intervals import student_t_cdf, student_t_quantile

Array = NDArray[np.float64]

NUM_RESAMPLES = 1_000  # only a standard error is taken from them: 1,000 give it to 2 %
_MAX_BINS = 1_024  # pooled samples beyond it are grouped by rank
_NORMAL_FROM = 500  # degrees of freedom above which Student's t changes no figure that is shown
_Z_ONE_SIDED = 1.645


@dataclass(frozen=True, slots=True)
class Effect:
    """A ratio with its 95 % interval and the probability of one so far from 1 without a difference."""

    ratio: float
    low: float
    high: float
    p: float

    @property
    def is_shown(self) -> bool:
        """True when the interval leaves out 1."""
        return not self.low <= 1.0 <= self.high


@dataclass(frozen=True, slots=True)
class LogRatio:
    """The logarithm of a ratio, its standard error, and the degrees of freedom behind that."""

    value: float
    error: float
    freedom: float

    def effect(self) -> Effect:
        """Back on the scale of ratios."""
        reach = self.error * _half_width(self._whole_freedom)
        low, high = self.value - reach, self.value + reach
        return Effect(math.exp(self.value), math.exp(low), math.exp(high), self._p())

    def _p(self) -> float:
        if self.error == 0.0:
            return 1.0 if self.value == 0.0 else 0.0
        return max(0.0, 2 * (1 - student_t_cdf(abs(self.value / self.error), self._whole_freedom)))

    @property
    def _whole_freedom(self) -> int:
        return max(1, min(_NORMAL_FROM, int(self.freedom)))


@cache
def _half_width(freedom: int) -> float:
    """Of a 95 % interval, in standard errors."""
    return student_t_quantile(0.975, freedom)


def mean_log_ratio(parts: Sequence[LogRatio]) -> LogRatio | None:
    """The mean of independent log ratios: a geometric mean in which every point weighs the same."""
    if not parts:
        return None
    variance = sum(part.error**2 for part in parts)
    spread = sum(part.error**4 / part.freedom for part in parts)  # Welch and Satterthwaite
    freedom = variance**2 / spread if spread else parts[0].freedom
    return LogRatio(sum(part.value for part in parts) / len(parts), math.sqrt(variance) / len(parts), freedom)


# --- Draws -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draws:
    """`counts` [resamples, requests]: how often each request is in each resample."""

    counts: Array
    block: int

    @property
    def freedom(self) -> float:
        """Independent blocks less one."""
        return max(1.0, float(self.counts.shape[1]) / self.block - 1)


@lru_cache(maxsize=2)  # most points of a comparison have the same number of requests; large draws are large
def draw(num_requests: int, block: int, seed: int) -> Draws:
    """Circular blocks of `block` neighbours, as many as make up the sample again."""
    rng = np.random.default_rng(seed)
    num_blocks = math.ceil(num_requests / block)
    starts = rng.integers(num_requests, size=(NUM_RESAMPLES, num_blocks, 1))
    chosen = (starts + np.arange(block)).reshape(NUM_RESAMPLES, -1)[:, :num_requests] % num_requests
    rows = np.arange(NUM_RESAMPLES)[:, None] * num_requests
    counts = np.bincount((rows + chosen).ravel(), minlength=NUM_RESAMPLES * num_requests)
    return Draws(counts.reshape(NUM_RESAMPLES, num_requests).astype(np.float64), block)


def block_length(series: Sequence[float]) -> int:
    """How many neighbours to draw together: 1 where the series shows no dependence, at most an eighth of it.

    Of the lengths 2, 4, 8, ... the one under which the mean varies most, among those at which it varies more than
    independent neighbours explain: the variance ratio test of Lo and MacKinlay (1988), one-sided at 5 %.
    """
    n = len(series)
    if n < 16:
        return 1
    values = np.asarray(series, dtype=np.float64) - np.mean(series)
    alone = float(values @ values) / n
    if alone == 0.0:
        return 1
    best, largest = 1, 1.0
    block = 2
    while block <= n // 8:
        sums = np.convolve(np.concatenate([values, values[: block - 1]]), np.ones(block), mode="valid")
        ratio = float(sums @ sums) / (n * block * alone)
        by_chance = math.sqrt(2 * (2 * block - 1) * (block - 1) / (3 * block * n))
        if ratio > max(largest, 1 + _Z_ONE_SIDED * by_chance):
            best, largest = block, ratio
        block *= 2
    return best


# --- Statistics --------------------------------------------------------------------------------------------------


def ratio_of_sums(above: Array, below: Array, draws: Draws) -> tuple[float, Array]:
    """Sum over sum: its value and that of each resample."""
    return float(above.sum() / below.sum()), (draws.counts @ above) / (draws.counts @ below)


def pooled_quantiles(samples: Sequence[Sequence[float]], shares: Sequence[float], draws: Draws) -> list[Array]:
    """Quantiles of the pooled samples of each resample; `samples` has one sequence per request."""
    owners = np.repeat(np.arange(len(samples)), [len(mine) for mine in samples])
    pool = np.concatenate([np.asarray(mine, dtype=np.float64) for mine in samples])
    order = np.argsort(pool, kind="stable")
    num_bins = min(_MAX_BINS, len(pool))
    bins = np.arange(len(pool)) * num_bins // len(pool)
    held = np.zeros((len(samples), num_bins))
    np.add.at(held, (owners[order], bins), 1.0)
    values = np.bincount(bins, weights=pool[order]) / np.bincount(bins)  # the mean of each bin
    reached = np.cumsum(draws.counts @ held, axis=1)
    return [values[(reached < share * reached[:, -1:]).sum(axis=1).clip(max=num_bins - 1)] for share in shares]


def log_ratio(first: float, second: float, firsts: Array, seconds: Array, draws: Draws) -> LogRatio | None:
    """log(second / first) with the spread of the resamples; None where a logarithm does not exist."""
    if not (first > 0 and second > 0 and bool((firsts > 0).all()) and bool((seconds > 0).all())):
        return None
    error = float(np.std(np.log(seconds) - np.log(firsts)))
    num_blocks = draws.freedom + 1
    # A resample of few values spreads less than a fresh sample would.
    return LogRatio(math.log(second / first), error * math.sqrt(num_blocks / draws.freedom), draws.freedom)
