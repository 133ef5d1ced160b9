"""A comparison as a section of the HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ming_eval.compare.comparison import Comparison, Verdict
from ming_eval.compare.tables import DOUBTS, LEGEND, comparison_grid, difference_lines, headline
from ming_eval.report.html import Section, bullet_list, note, table

_COLOURS = {Verdict.BETTER: "faster", Verdict.WORSE: "slower"}


def comparison_section(comparisons: Sequence[Comparison]) -> Section:
    """Verdict, table and differences of each comparison."""
    return Section("comparison", "Comparison", "".join(map(_body, comparisons)) + note(LEGEND))


def _body(comparison: Comparison) -> str:
    colour = _COLOURS.get(comparison.verdict, "") if comparison.verdict is not None else ""
    unlike = difference_lines(comparison)
    return (
        f'<p class="verdict {colour}">{escape(headline(comparison))}</p>'
        + table(comparison_grid(comparison))
        + (note("Unlike in more than speed:") + bullet_list(unlike) if unlike else "")
        + (note(DOUBTS) + bullet_list(comparison.doubts) if comparison.doubts else "")
    )
