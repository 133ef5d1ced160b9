"""Comparisons of accuracy runs as text for the terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import astuple

from ming_eval.compare.accuracy import AccuracyComparison, GroupComparison, Test
from ming_eval.compare.comparison import Verdict
from ming_eval.metrics.paired import Difference
from ming_eval.report.accuracy_table import share
from ming_eval.report.grid import MISSING, Grid

NUM_GROUPS = 10  # of each dimension, those that chance explains least; all are in the JSON

LEGEND = (
    "Over the items that both were asked. Differences are second minus first in points, with 95 % intervals: over "
    "items or clusters by Student's t, and by a paired bootstrap of 10,000 draws. McNemar's test is exact and takes "
    "items as independent; where they have clusters or were asked several times, the paired t over clusters decides, "
    "for error rates the bootstrap. Verdicts are under Holm's correction for all suites compared."
)


def comparison_text(comparisons: Sequence[AccuracyComparison]) -> str:
    """For a terminal."""
    parts = [*map(headline, comparisons), "", suite_grid(comparisons).text().rstrip(), "", textwrap.fill(LEGEND, 100)]
    for each in comparisons:
        parts += _group_parts(each, is_markdown=False)
        parts += [f"- {each.suite}, unlike: {line}" for line in unlike(each)]
    return "\n".join(parts) + "\n"


def comparison_markdown(comparisons: Sequence[AccuracyComparison]) -> str:
    """For `summary.md`: without a title of its own."""
    parts = [f"**{headline(each)}**" for each in comparisons] + [suite_grid(comparisons).markdown().rstrip(), LEGEND]
    for each in comparisons:
        parts += [part for part in _group_parts(each, is_markdown=True) if part]
        parts += ["\n".join(f"- {each.suite}, unlike: {line}" for line in unlike(each))] if unlike(each) else []
    return "\n\n".join(parts)


def headline(comparison: AccuracyComparison) -> str:
    """The one verdict on a suite."""
    found = comparison.difference
    change = f"{share(comparison.first_value)} -> {share(comparison.second_value)}"
    p = (
        "no probability"
        if comparison.p_adjusted is None
        else f"{comparison.test}, p {probability(comparison.p_adjusted)}"
    )
    why = f"{' and '.join(comparison.silent)} gave no reply" if comparison.silent else _TOO_FEW
    verdict = _WORDS.get(comparison.verdict, f"no verdict, since {why}")
    return (
        f"{comparison.second} against {comparison.first} on {comparison.suite}: {comparison.metric} {change}, "
        f"{points(found.value)} points (95 %: {_interval(found)}; {p}): {verdict}."
    )


_TOO_FEW = "fewer than two independent items are shared"
_WORDS: dict[Verdict | None, str] = {verdict: verdict.value for verdict in Verdict}


def suite_grid(comparisons: Sequence[AccuracyComparison]) -> Grid:
    """A row for each suite: cells, difference, both intervals, probabilities."""
    header = [
        "suite", "system", "items", "both right", "only first", "only second", "neither", "points", "95 % paired",
        "95 % bootstrap", "McNemar p", "p adjusted", "detectable", "same answer", "unmatched",
    ]  # fmt: skip
    return Grid(header, [_cells(each) for each in comparisons], num_labels=2)


def group_grid(comparison: AccuracyComparison, dimension: str) -> Grid:
    """The groups of a dimension that chance explains least, worst change first among equals."""
    rows = sorted(_of(comparison, dimension), key=lambda row: _order(row, comparison))[:NUM_GROUPS]
    header = [dimension, "items", "first", "second", "points", "only first", "only second", "p", "p adjusted"]
    return Grid(header, [_group_cells(row) for row in rows])


def group_note(comparison: AccuracyComparison, dimension: str) -> str:
    """How many groups were looked at, and what that does to their probabilities."""
    count = len(_of(comparison, dimension))
    beyond = count - NUM_GROUPS
    hidden = f"; {beyond} more, which chance explains better, are in the JSON" if beyond > 0 else ""
    return f"p adjusted: by Holm's procedure over the {count} values of {dimension}, since all were looked at{hidden}."


def unlike(comparison: AccuracyComparison) -> list[str]:
    """In what the runs differ besides their answers, a line each."""
    return [*(f"{each} (forbids a comparison; forced)" for each in comparison.forbidden), *comparison.notes]


def dimensions(comparison: AccuracyComparison) -> list[str]:
    """Reporting dimensions with more than one value."""
    names = dict.fromkeys(row.dimension for row in comparison.groups)
    return [name for name in names if len(_of(comparison, name)) > 1]


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}"


def probability(p: float | None) -> str:
    """Two digits, or that it is very small."""
    return MISSING if p is None else "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.995 else "1"


def _group_parts(comparison: AccuracyComparison, *, is_markdown: bool) -> list[str]:
    parts: list[str] = []
    for name in dimensions(comparison):
        grid = group_grid(comparison, name)
        title = f"{comparison.suite}, {comparison.second} against {comparison.first} by {name}"
        parts += ["", f"### {title}" if is_markdown else f"{title}:"]
        parts.append((grid.markdown() if is_markdown else grid.text()).rstrip())
        parts.append(group_note(comparison, name))
    return parts


def _of(comparison: AccuracyComparison, dimension: str) -> list[GroupComparison]:
    return [row for row in comparison.groups if row.dimension == dimension]


def _order(row: GroupComparison, comparison: AccuracyComparison) -> tuple[float, float, str]:
    gain = -row.difference if comparison.lower_is_better else row.difference
    return 1.0 if row.p is None else row.p, gain, row.name


def _cells(each: AccuracyComparison) -> list[str]:
    cells = each.cells
    return [
        each.suite,
        each.second,
        str(each.items),
        *([MISSING] * 4 if each.test is Test.BOOTSTRAP else map(str, astuple(cells))),
        points(each.difference.value),
        MISSING if each.paired is None else _interval(each.paired),
        _interval(each.bootstrap),
        MISSING if each.test is Test.BOOTSTRAP else probability(each.mcnemar_p),
        probability(each.p_adjusted),
        MISSING if each.detectable_difference is None else f"{100 * each.detectable_difference:.1f}",
        share(each.same_answers),
        str(each.num_unmatched),
    ]


def _group_cells(row: GroupComparison) -> list[str]:
    return [
        row.name,
        str(row.items),
        share(row.first),
        share(row.second),
        points(row.difference),
        str(row.cells.only_first),
        str(row.cells.only_second),
        probability(row.p),
        probability(row.p_adjusted),
    ]


def _interval(found: Difference) -> str:
    return MISSING if found.low is None or found.high is None else f"{points(found.low)} to {points(found.high)}"
