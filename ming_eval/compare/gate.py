"""`--fail-on`: conditions that turn a comparison into a gate, such as `ttft_ms.p99>+5%`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ming_eval.compare.comparison import Comparison, FigureComparison, PointComparison
from ming_eval.compare.figures import check_figure
from ming_eval.errors import DataError, UsageError
from ming_eval.report.grid import number

_CONDITION = re.compile(r"\s*([a-z0-9_.]+)\s*([<>])\s*(?:([+-]\d+(?:\.\d+)?)\s*%|(\d+(?:\.\d+)?))\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """Fails when `figure` of a later system is above (`>`) or below (`<`) the limit.

    A relative limit is a share of the first system's figure (0.05: 5 % more), an absolute one is in the figure's unit.
    """

    text: str
    figure: str
    is_above: bool
    limit: float
    is_relative: bool

    @classmethod
    def parse(cls, text: str) -> Condition:
        """From what a user typed.

        Raises:
            UsageError: it is no condition, or its figure does not exist.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise UsageError(f"bad condition {text!r}: write FIGURE>+5%, FIGURE<-5% or FIGURE>500")
        name, sign, share, value = match.groups()
        limit = float(share) / 100 if share is not None else float(value)
        return cls(text, check_figure(name), sign == ">", limit, share is not None)

    def is_crossed(self, row: FigureComparison) -> bool:
        """True when the measured figure lies beyond the limit."""
        value = row.second / row.first - 1 if self.is_relative else row.second
        return value > self.limit if self.is_above else value < self.limit


@dataclass(frozen=True, slots=True)
class Crossing:
    """A limit that was crossed. It fails the gate unless the difference could be chance (`is_shown` False)."""

    condition: str
    system: str
    load: str
    first: float
    second: float
    is_shown: bool

    def __str__(self) -> str:
        outcome = "failed" if self.is_shown else "crossed, but the interval holds no change: not counted"
        figures = f"{number(self.first)} -> {number(self.second)}"
        return f"{self.condition}: {outcome} by {self.system} at {self.load} ({figures})"


def crossings(conditions: Sequence[Condition], comparisons: Sequence[Comparison]) -> list[Crossing]:
    """Every limit crossed at any point.

    Raises:
        DataError: a figure has no value at any point: a gate must not pass because nothing was measured.
    """
    return [found for condition in conditions for each in comparisons for found in _crossed(condition, each)]


def _crossed(condition: Condition, comparison: Comparison) -> list[Crossing]:
    rows = [(point, row) for point in comparison.points for row in point.figures if row.figure == condition.figure]
    if not rows:
        raise DataError(
            f"{condition.text}: {comparison.first} and {comparison.second} have no {condition.figure} in common, "
            "so the gate cannot be judged"
        )
    return [_crossing(condition, comparison, *pair) for pair in rows if condition.is_crossed(pair[1])]


def _crossing(condition: Condition, comparison: Comparison, point: PointComparison, row: FigureComparison) -> Crossing:
    is_shown = not condition.is_relative or row.effect is None or row.effect.is_shown
    return Crossing(condition.text, comparison.second, point.load, row.first, row.second, is_shown)
