"""Rows of short strings as aligned text or as a Markdown table, and how numbers are written in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MISSING = "-"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; the first `num_labels` columns are words, aligned left, the others numbers, aligned right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_labels: int = 1

    def text(self) -> str:
        """For a terminal: columns two blanks apart, a rule below the header."""
        widths = [max(map(_width, column)) for column in zip(self.header, *self.rows, strict=True)]
        rule = ["-" * width for width in widths]
        lines = [self._line(row, widths) for row in (self.header, rule, *self.rows)]
        return "\n".join(lines) + "\n"

    def markdown(self) -> str:
        """For a document: a pipe table."""
        rule = [":--" if column < self.num_labels else "--:" for column in range(len(self.header))]
        rows = [self.header, rule, *([cell.replace("|", "\\|") for cell in row] for row in self.rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - _width(cell))
            cells.append(cell + blanks if column < self.num_labels else blanks + cell)
        return "  ".join(cells).rstrip()


FEWEST_LOOKS = 3  # at a server or a GPU: with fewer, what lies between them may be anything


def number(value: float | None) -> str:
    """Three or more significant digits, as many as a reader of a benchmark can use: 1444, 91.2, 3.41, 0.052."""
    if value is None:
        return MISSING
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 or size == 0 else f"{value:.3f}"


def pair(first: float | None, second: float | None) -> str:
    """Two figures of one kind: `1444 / 2310`."""
    return f"{number(first)} / {number(second)}"


def percent(share: float | None) -> str:
    """A share of 0 to 1 as `4.2 %`."""
    return MISSING if share is None else f"{100 * share:.3g} %"


def _width(text: str) -> int:
    """Cells that `text` takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
