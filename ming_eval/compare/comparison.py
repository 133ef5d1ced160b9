"""Two systems over all points that both have: one verdict on throughput, and the rest under Holm's correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from ming_eval.compare import figures as figure
from ming_eval.compare.likeness import Difference, check_alike, differences
from ming_eval.compare.resampling import Draws, Effect, LogRatio, block_length, draw, mean_log_ratio
from ming_eval.compare.system import Pairs as PairedRequests
from ming_eval.compare.system import PointKey, System, pair
from ming_eval.errors import DataError, UsageError
from ming_eval.metrics import latency
from ming_eval.metrics.paired import Cells, holm, mcnemar
from ming_eval.metrics.validity import RunValidity, Trust, worst_of
from ming_eval.types import Task

ALPHA = 0.05


class Verdict(StrEnum):
    """What a comparison shows of the second system."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True, slots=True)
class FigureComparison:
    """One figure at one point; `first` and `second` in the figure's unit, `ratio` is second over first.

    `p_adjusted` is under Holm's correction over all figures and points; the verdict follows it.
    """

    figure: str
    first: float
    second: float
    effect: Effect | None
    p_adjusted: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class FailureComparison:
    """Requests that failed in one system, in the other, in both; exact McNemar test of the first two."""

    only_first: int
    only_second: int
    both: int
    p: float
    p_adjusted: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class PointComparison:
    """Two systems under one load; `block` neighbouring requests were resampled together."""

    task: str
    concurrency: int
    rate_per_s: float | None
    pairs: int
    unpaired: int
    block: int
    failures: FailureComparison
    figures: tuple[FigureComparison, ...]

    @property
    def load(self) -> str:
        """The load in a word."""
        return str(PointKey(Task(self.task), self.concurrency, self.rate_per_s))


@dataclass(frozen=True, slots=True)
class Comparison:
    """`second` against `first`. `throughput` is output tokens/s, the geometric mean of the ratios of all points.

    `invalid` names the systems whose client could not be believed at these points: there is no verdict then, nor one
    of a figure at such a point. `doubts` are its reasons, of those and of the suspect ones.
    """

    first: str
    second: str
    throughput: Effect | None
    verdict: Verdict | None
    differences: tuple[Difference, ...]
    points: tuple[PointComparison, ...]
    invalid: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def compare_all(
    systems: Sequence[System], *, names: Sequence[str] = figure.IN_TABLE, force: bool = False, seed: int = 0
) -> list[Comparison]:
    """Every further system against the first one.

    Raises:
        UsageError: there are fewer than two systems.
        DataError: two of them were not asked the same, and `force` is not set; or they share no request.
    """
    if len(systems) < 2:
        raise UsageError("a comparison needs two systems: name two runs, or one that measured two backends")
    first, *others = systems
    return [compare(first, other, names=names, force=force, seed=seed) for other in others]


def compare(
    first: System,
    second: System,
    *,
    names: Sequence[str] = figure.IN_TABLE,
    force: bool = False,
    seed: int = 0,
) -> Comparison:
    """`second` against `first`; see `compare_all`."""
    pairs = {key: pair(first.points[key], second.points[key]) for key in first.points if key in second.points}
    pairs = {key: paired for key, paired in pairs.items() if paired.first}
    found = differences(first, second, list(pairs.values()))
    if not pairs:
        raise DataError(f"{first.label} and {second.label} share no request at the same load: nothing to compare")
    check_alike(first, second, found, force=force)
    compared = [_compare_point(key, paired, names, seed) for key, paired in pairs.items()]
    points, ratios = [point for point, _ in compared], [ratio for _, ratio in compared if ratio is not None]
    overall = mean_log_ratio(ratios) if len(ratios) == len(points) else None
    throughput = None if overall is None else overall.effect()
    said = {system.label: _client_of(system, pairs) for system in (first, second)}
    invalid = tuple(label for label, each in said.items() if each is not None and each.verdict is Trust.INVALID)
    unbelieved = {key for key in pairs if any(_is_invalid(system, key) for system in (first, second))}
    verdict = None if throughput is None or invalid else _verdict(throughput.ratio > 1, throughput.p)
    return Comparison(
        first=first.label,
        second=second.label,
        throughput=throughput,
        verdict=verdict,
        differences=tuple(found),
        points=tuple(
            _without_verdicts(point) if key in unbelieved else point
            for key, point in zip(pairs, _corrected(points), strict=True)
        ),
        invalid=invalid,
        doubts=tuple(
            f"{label} {reason}" for label, each in said.items() if each is not None for reason in each.reasons
        ),
    )


def _client_of(system: System, compared: Iterable[PointKey]) -> RunValidity | None:
    """What the client said of itself at the points that are compared."""
    return worst_of((str(key), system.validity[key]) for key in compared if key in system.validity)


def _is_invalid(system: System, key: PointKey) -> bool:
    found = system.validity.get(key)
    return found is not None and found.verdict is Trust.INVALID


def _without_verdicts(point: PointComparison) -> PointComparison:
    """The figures of a point whose client could not be believed. That requests failed is no matter of its clock."""
    return replace(point, figures=tuple(replace(row, verdict=None) for row in point.figures))


def _compare_point(
    key: PointKey, pairs: PairedRequests, names: Sequence[str], seed: int
) -> tuple[PointComparison, LogRatio | None]:
    block = _block(pairs)

    @cache
    def draws(num_requests: int) -> Draws:
        return draw(num_requests, min(block, max(1, num_requests // 4)), seed)

    measured = [(name, found) for name in names if (found := figure.measure(name, pairs, draws)) is not None]
    rows = [_figure(name, found) for name, found in measured]
    ratio = next((found.ratio for name, found in measured if name == figure.THROUGHPUT), None)
    point = PointComparison(
        task=key.task.value,
        concurrency=key.concurrency,
        rate_per_s=key.rate_per_s,
        pairs=len(pairs.first),
        unpaired=pairs.num_unpaired,
        block=block,
        failures=_failures(pairs),
        figures=tuple(rows),
    )
    return point, ratio


def _block(pairs: PairedRequests) -> int:
    """Block length by the difference that counts: how much longer one system took for a request than the other."""
    lags = [
        b - a
        for one, other in zip(pairs.first, pairs.second, strict=True)
        if (a := latency.e2e_s(one)) is not None and (b := latency.e2e_s(other)) is not None
    ]
    return block_length(lags)


def _figure(name: str, found: figure.Measured) -> FigureComparison:
    return FigureComparison(name, found.first, found.second, None if found.ratio is None else found.ratio.effect())


def _failures(pairs: PairedRequests) -> FailureComparison:
    cells = Cells.of([not record.ok for record in pairs.first], [not record.ok for record in pairs.second])
    return FailureComparison(cells.only_first, cells.only_second, cells.both, mcnemar(cells))


def _corrected(points: Sequence[PointComparison]) -> list[PointComparison]:
    """The points with verdicts under Holm's correction over everything that was looked at."""
    looked_at = [row.effect.p for point in points for row in point.figures if row.effect is not None]
    looked_at += [point.failures.p for point in points if point.failures.only_first or point.failures.only_second]
    adjusted = dict(zip(looked_at, holm(looked_at), strict=True))  # equal probabilities stay equal
    return [
        replace(
            point,
            failures=_judge_failures(point.failures, adjusted),
            figures=tuple(_judge_figure(row, adjusted) for row in point.figures),
        )
        for point in points
    ]


def _judge_figure(row: FigureComparison, adjusted: dict[float, float]) -> FigureComparison:
    if row.effect is None:
        return row
    is_better = (row.effect.ratio > 1) == figure.higher_is_better(row.figure)
    p = adjusted[row.effect.p]
    return replace(row, p_adjusted=p, verdict=_verdict(is_better, p))


def _judge_failures(row: FailureComparison, adjusted: dict[float, float]) -> FailureComparison:
    p = adjusted.get(row.p, 1.0) if row.only_first or row.only_second else None
    return row if p is None else replace(row, p_adjusted=p, verdict=_verdict(row.only_second < row.only_first, p))


def _verdict(is_better: bool, p: float) -> Verdict:
    if p >= ALPHA:
        return Verdict.NO_DIFFERENCE
    return Verdict.BETTER if is_better else Verdict.WORSE
