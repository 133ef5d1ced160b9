"""The highest load that meets limits: doubling until one is broken, then halving the gap."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ming_eval.errors import UsageError
from ming_eval.load.kept import Kept
from ming_eval.load.plan import Level, LoadPlan, Order, level_of
from ming_eval.load.summary import summarise_point
from ming_eval.results import Distribution, Point

_LIMIT = re.compile(r"\s*([a-z0-9_]+)(?:\.([a-z0-9]+))?\s*([<>])\s*(\d+(?:\.\d+)?)\s*")
_STATISTICS = ("mean", "p50", "p95", "p99", "min", "max")
_OF_SPEECH = ("ttfa_ms", "rtf", "rtf_gen", "prebuffer_ms")
_CLOSE = 0.05  # of the load: a gap smaller than this is not halved any more


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure of a point must stay below (`<`) or above (`>`).

    `figure` as in `summary.json`; those of speech without `speech.` in front, and `goodput` for its share.
    """

    figure: str
    is_upper: bool
    value: float

    def is_met(self, point: Point) -> bool:
        """False also where the figure has no value: nothing was measured that meets it."""
        value = _read(point, self.figure)
        return value is not None and (value < self.value if self.is_upper else value > self.value)

    def is_sure(self, point: Point) -> bool | None:
        """True or False where the figure's whole interval lies on one side, None where it does not or is not known."""
        interval = point.intervals.get(self.figure)
        if self.figure == "goodput" and point.goodput is not None:
            interval = point.goodput.interval
        if interval is None or interval.low <= self.value <= interval.high:
            return None
        return (interval.high < self.value) == self.is_upper

    def __str__(self) -> str:
        return f"{self.figure}{'<' if self.is_upper else '>'}{self.value:g}"


@dataclass(frozen=True, slots=True)
class Search:
    """Limits, and the loads between which to search, in requests in flight."""

    limits: tuple[Limit, ...]
    lowest: int
    highest: int
    max_error_rate: float

    def is_met(self, point: Point) -> bool:
        """True when every limit is met and no more requests failed than may."""
        return (point.error_rate or 0.0) <= self.max_error_rate and all(limit.is_met(point) for limit in self.limits)

    def is_sure(self, point: Point) -> bool | None:
        """`is_met` as far as the intervals tell."""
        if (point.error_rate or 0.0) > self.max_error_rate:
            return False
        known = [limit.is_sure(point) for limit in self.limits]
        if False in known:
            return False
        return None if None in known else True

    def next_load(self, outcomes: Mapping[int, bool]) -> int | None:
        """What to try after `outcomes` (load: were the limits met), None when the search is over."""
        if not outcomes:
            return self.lowest
        broken = min((load for load, met in outcomes.items() if not met), default=None)
        met = max((load for load, met in outcomes.items() if met and (broken is None or load < broken)), default=None)
        if met is None:
            return None  # the lowest load breaks a limit
        if broken is None:
            return min(2 * met, self.highest) if met < self.highest else None
        gap = broken - met
        return met + gap // 2 if gap > max(1.0, _CLOSE * met) else None


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest load that met all limits, and its point; both None when the lowest load already broke one.

    `first_broken` is the lowest load above it that broke one, None when none did up to the highest. The 95 % intervals
    of the figures put the capacity between `surely` (limits met with their whole intervals) and `surely_not`; either
    is None where no load that was tried is that clear.
    """

    limits: tuple[str, ...]
    load: int | None
    first_broken: int | None
    surely: int | None
    surely_not: int | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    tried: tuple[int, ...]

    def __str__(self) -> str:
        limits = " and ".join(self.limits)
        if self.load is None:
            return f"No load that was tried meets {limits}: already c={self.tried[0]} does not."
        beyond = f"c={self.first_broken} does not" if self.first_broken else "the highest that was tried"
        low = f"c={self.surely}" if self.surely is not None else "below what was tried"
        high = f"c={self.surely_not}" if self.surely_not is not None else "above what was tried"
        return f"Highest load with {limits}: c={self.load} ({beyond}). By the 95 % intervals between {low} and {high}."


def parse_search(text: str, concurrencies: Sequence[int], max_error_rate: float) -> Search:
    """`ttft_ms.p99<500 and tpot_ms.p95<50`, searched between the lowest and the highest of `concurrencies`.

    Raises:
        UsageError: it is no condition, or names a figure that points do not have.
    """
    limits = tuple(_limit(part, text) for part in re.split(r"\band\b|,", text))
    return Search(limits, min(concurrencies), max(concurrencies), max_error_rate)


def capacity(search: Search, points: Iterable[Point]) -> Capacity:
    """What the points that were tried say."""
    tried = {point.concurrency: point for point in points}
    outcomes = {load: search.is_met(point) for load, point in tried.items()}
    first_broken = min((load for load, met in outcomes.items() if not met), default=None)
    best = max(
        (load for load, met in outcomes.items() if met and (first_broken is None or load < first_broken)), default=None
    )
    sure = {load: search.is_sure(point) for load, point in tried.items()}
    surely_not = min((load for load, clear in sure.items() if clear is False), default=None)
    surely = [load for load, clear in sure.items() if clear and (surely_not is None or load < surely_not)]
    return Capacity(
        limits=tuple(map(str, search.limits)),
        load=best,
        first_broken=first_broken,
        surely=max(surely, default=None),
        surely_not=surely_not,
        requests_per_s=None if best is None else tried[best].requests_per_s,
        output_tokens_per_s=None if best is None else tried[best].output_tokens_per_s,
        tried=tuple(sorted(tried)),
    )


async def run_search(
    search: Search, plan: LoadPlan, backend: str, kept: Kept, measure: Callable[[LoadPlan], Awaitable[None]]
) -> None:
    """Call `measure` with plans that grow by one load at a time.

    Loads stay in the order in which they were tried, so that a plan asks the same again for those that it shares with
    the plan before, which are in `kept` and not measured again, and something new for the last one.
    """
    outcomes: dict[int, bool] = {}
    while (load := search.next_load(outcomes)) is not None:
        step = replace(plan, concurrencies=(*outcomes, load), order=Order.GIVEN)
        await measure(step)
        level = Level(load, None, plan.tasks[0])
        mine = [record for record in kept.records if record.backend == backend and level_of(record) == level]
        outcomes[load] = search.is_met(summarise_point(mine, backend, level, step))


def _read(point: Point, figure: str) -> float | None:
    """The figure of a point, None where it has no value."""
    name, _, statistic = figure.partition(".")
    if name == "goodput":
        return None if point.goodput is None else point.goodput.share
    owner = point.speech if name in _OF_SPEECH else point
    value = None if owner is None else getattr(owner, name)
    return getattr(value, statistic) if statistic and value is not None else value


def _limit(part: str, text: str) -> Limit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        raise UsageError(f"bad search {text!r}: write limits such as 'ttft_ms.p99<500 and tpot_ms.p95<50'")
    name, statistic, sign, value = match.groups()
    field = Point.__dataclass_fields__.get(name)
    is_latency = field is not None and field.type in ("Distribution", Distribution)
    is_single = name in ("output_tokens_per_s", "requests_per_s", "goodput")
    has_statistics = is_latency or name in _OF_SPEECH
    if not ((has_statistics and statistic in _STATISTICS) or (is_single and statistic is None)):
        raise UsageError(
            f"unknown figure {part.strip()!r}: choose output_tokens_per_s, requests_per_s, goodput (of --slo), or a "
            f"latency such as ttft_ms, ttfa_ms or rtf followed by .{', .'.join(_STATISTICS)}"
        )
    return Limit(f"{name}.{statistic}" if statistic else name, sign == "<", float(value))
