"""`--fail-on` for accuracy runs: conditions such as `accuracy<-2pt` or `mmlu:accuracy<0.75`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ming_eval.compare.accuracy import AccuracyComparison
from ming_eval.compare.gate import Crossing
from ming_eval.errors import DataError, UsageError

_CONDITION = re.compile(
    r"\s*(?:(?P<suite>[\w.-]+):)?(?P<metric>[\w.-]+(?:\[[^\]]+\])?)\s*(?P<sign>[<>])\s*"
    r"(?:(?P<points>[+-]\d+(?:\.\d+)?)\s*pt|(?P<value>\d+(?:\.\d+)?))\s*"
)


@dataclass(frozen=True, slots=True)
class AccuracyCondition:
    """Fails when a later system's metric is above or below the limit: a change in points, or a share of 0 to 1."""

    text: str
    suite: str | None
    metric: str
    is_above: bool
    limit: float
    is_change: bool

    @classmethod
    def parse(cls, text: str) -> AccuracyCondition:
        """From what a user typed.

        Raises:
            UsageError: it is no condition.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise UsageError(
                f"bad condition {text!r}: of accuracy runs write METRIC<-2pt, METRIC<0.75 or SUITE:METRIC<-2pt"
            )
        points = match["points"]
        limit = float(points) / 100 if points is not None else float(match["value"])
        return cls(text, match["suite"], match["metric"], match["sign"] == ">", limit, points is not None)

    def fits(self, comparison: AccuracyComparison) -> bool:
        """True when the condition is about this suite and metric."""
        return self.metric == comparison.metric and self.suite in (None, comparison.suite)

    def is_crossed(self, comparison: AccuracyComparison) -> bool:
        """True when the later system lies beyond the limit."""
        value = comparison.second_value - comparison.first_value if self.is_change else comparison.second_value
        return value > self.limit if self.is_above else value < self.limit


def accuracy_crossings(
    conditions: Sequence[AccuracyCondition], comparisons: Sequence[AccuracyComparison]
) -> list[Crossing]:
    """Every limit crossed in any suite; a change that chance explains is named but does not fail.

    Raises:
        DataError: no suite has the metric, or a run has no reply: a gate must not pass because nothing was measured.
    """
    return [found for condition in conditions for found in _crossed(condition, comparisons)]


def _crossed(condition: AccuracyCondition, comparisons: Sequence[AccuracyComparison]) -> list[Crossing]:
    fitting = [each for each in comparisons if condition.fits(each)]
    if not fitting:
        names = ", ".join(dict.fromkeys(f"{each.suite}:{each.metric}" for each in comparisons))
        raise DataError(
            f"{condition.text}: the runs have no such figure, so the gate cannot be judged; they have {names}"
        )
    for each in fitting:
        if each.silent:
            raise DataError(
                f"{condition.text}: {' and '.join(each.silent)} gave no reply to {each.suite}, "
                "so the gate cannot be judged"
            )
    return [
        Crossing(
            condition.text,
            each.second,
            each.suite,
            each.first_value,
            each.second_value,
            is_shown=not condition.is_change or _is_shown(each),
        )
        for each in fitting
        if condition.is_crossed(each)
    ]


def _is_shown(comparison: AccuracyComparison) -> bool:
    found = comparison.difference
    return found.low is not None and found.high is not None and not found.low <= 0.0 <= found.high
