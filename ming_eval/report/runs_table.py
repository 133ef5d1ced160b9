"""What `ming-eval runs` shows: one row per stored run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ming_eval.report.grid import Grid, number
from ming_eval.results import Summary


@dataclass(frozen=True, slots=True)
class RunRow:
    """A stored run in one line; what cannot be read of it is None or empty."""

    run: str
    status: str
    started: str | None = None
    backends: tuple[str, ...] = ()
    points: int | None = None
    requests: int | None = None
    failed: int | None = None
    best_output_tokens_per_s: float | None = None

    @classmethod
    def of(cls, summary: Summary) -> RunRow:
        """The row of a run that has a summary."""
        rates = [point.output_tokens_per_s for point in summary.points if point.output_tokens_per_s is not None]
        return cls(
            run=summary.run,
            started=summary.started,
            backends=tuple(backend.name for backend in summary.backends),
            status=summary.verdict.status,
            points=len(summary.points),
            requests=summary.requests,
            failed=summary.failed,
            best_output_tokens_per_s=max(rates, default=None),
        )


def runs_grid(rows: Iterable[RunRow]) -> Grid:
    """One line a run, in the order given."""
    header = ["run", "status", "points", "requests", "failed", "best tok/s"]
    return Grid(header, [_cells(row) for row in rows], num_labels=2)


def _cells(row: RunRow) -> list[str]:
    counts = [number(count) if count is None else str(count) for count in (row.points, row.requests, row.failed)]
    return [row.run, row.status, *counts, number(row.best_output_tokens_per_s)]
