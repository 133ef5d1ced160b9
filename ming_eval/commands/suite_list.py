"""What `ming-eval accuracy --list` shows: one row for each bundled suite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ming_eval.evals.data import SAMPLE_FILE
from ming_eval.evals.suite import Suite, bundled_names, find_suite
from ming_eval.report.grid import MISSING, Grid


@dataclass(frozen=True, slots=True)
class SuiteRow:
    """A bundled suite in one line; `items` is None where the set's size is not fixed, `revision` where that is not."""

    name: str
    title: str
    kind: str
    modalities: tuple[str, ...]
    sample_items: int | None
    items: int | None
    licence: str
    revision: str | None
    protocol: str
    protocols: tuple[str, ...]


def suite_rows() -> list[SuiteRow]:
    """Every bundled suite, by name.

    Raises:
        DataError: a suite file cannot be read.
    """
    return [_row(find_suite(name)) for name in bundled_names()]


def suite_grid(rows: Iterable[SuiteRow]) -> Grid:
    """The rows as a table."""
    header = ["suite", "kind", "modality", "default protocol", "licence", "revision", "sample", "full set"]
    return Grid(header, [_cells(row) for row in rows], num_labels=6)


def _row(suite: Suite) -> SuiteRow:
    sample = suite.folder / SAMPLE_FILE
    return SuiteRow(
        name=suite.name,
        title=suite.suite.title or suite.name,
        kind=suite.kind,
        modalities=suite.suite.modalities,
        sample_items=len(sample.read_bytes().splitlines()) if sample.exists() else None,
        items=suite.source.rows,
        licence=suite.suite.licence,
        revision=suite.source.revision,
        protocol=suite.default_protocol,
        protocols=tuple(suite.protocols),
    )


def _cells(row: SuiteRow) -> list[str]:
    counts = [MISSING if count is None else str(count) for count in (row.sample_items, row.items)]
    return [
        row.name,
        row.kind,
        "+".join(row.modalities),
        row.protocol,
        row.licence,
        (row.revision or "not pinned")[:10],
        *counts,
    ]
