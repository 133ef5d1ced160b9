"""The comparison that a run of several backends brings along: in its summary, in its folder, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ming_eval import results
from ming_eval.errors import DataError
from ming_eval.manifest import Manifest
from ming_eval.results import Summary
from ming_eval.types import RequestRecord

if TYPE_CHECKING:
    from ming_eval.compare.comparison import Comparison

COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Every further backend against the first one, or why there is no such comparison; empty for one backend."""

    comparisons: Sequence[Comparison] = ()
    refusal: str | None = None

    def markdown(self) -> str | None:
        """A section for `summary.md`, None where there is nothing to say."""
        if self.refusal is not None:
            return f"## Comparison\n\nNone: {self.refusal}."
        if not self.comparisons:
            return None
        from ming_eval.compare.tables import comparison_markdown

        return f"## Comparison\n\n{comparison_markdown(self.comparisons)}"

    def text(self) -> str:
        """One line per comparison for the terminal."""
        if self.refusal is not None:
            return f"No comparison: {self.refusal}\n"
        if not self.comparisons:
            return ""
        from ming_eval.compare.tables import headline

        return "".join(f"{headline(comparison)}\n" for comparison in self.comparisons)

    def write(self, folder: Path) -> None:
        """Write `comparison.json` where there is a comparison.

        Raises:
            DataError: it cannot be written.
        """
        if self.comparisons:
            results.write_whole(folder / COMPARISON_FILE, results.encode(self.comparisons))


def side_by_side(manifest: Manifest, records: Sequence[RequestRecord], summary: Summary) -> SideBySide:
    """Compare the backends of a run that was just measured or summed up."""
    if len(manifest.backends) < 2:
        return SideBySide()
    from ming_eval.compare.comparison import compare_all
    from ming_eval.compare.system import judged, systems_of

    try:
        return SideBySide(compare_all([judged(system, summary) for system in systems_of(manifest, records)]))
    except DataError as exc:
        return SideBySide(refusal=str(exc))
