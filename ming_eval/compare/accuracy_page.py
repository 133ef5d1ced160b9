"""A comparison of accuracy runs as a section of the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ming_eval.compare.accuracy import AccuracyComparison
from ming_eval.compare.accuracy_tables import (
    LEGEND,
    dimensions,
    group_grid,
    group_note,
    headline,
    suite_grid,
    unlike,
)
from ming_eval.report.html import Section, bullet_list, note, table


def accuracy_comparison_section(comparisons: Sequence[AccuracyComparison]) -> Section:
    """Verdicts, cells and groups of each suite."""
    verdicts = "".join(f'<p class="verdict">{escape(headline(each))}</p>' for each in comparisons)
    body = verdicts + table(suite_grid(comparisons)) + note(LEGEND) + "".join(map(_groups, comparisons))
    return Section("accuracy-comparison", "Comparison of accuracy", body)


def _groups(comparison: AccuracyComparison) -> str:
    parts = [
        f"<h3>{escape(f'{comparison.suite}, {comparison.second} against {comparison.first} by {name}')}</h3>"
        f"{table(group_grid(comparison, name))}{note(group_note(comparison, name))}"
        for name in dimensions(comparison)
    ]
    others = unlike(comparison)
    return "".join(parts) + (note("Unlike in more than answers:") + bullet_list(others) if others else "")
