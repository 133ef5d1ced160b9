"""What `ming-eval runs` shows: one row per stored run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ming_eval.errors import UsageError
from ming_eval.report.grid import Grid, number
from ming_eval.results import Summary

_AGES = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class RunRow:
    """A stored run in one line; what cannot be read of it is None or empty."""

    run: str
    status: str
    command: str | None = None
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
            command=command_of(summary.command),
            started=summary.started,
            backends=tuple(backend.name for backend in summary.backends),
            status=summary.verdict.status,
            points=len(summary.points) or None,  # only a sweep has points
            requests=summary.requests,
            failed=summary.failed,
            best_output_tokens_per_s=max(rates, default=None),
        )


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; None lets all pass. `since` is compared with when a run started."""

    command: str | None = None
    backend: str | None = None
    status: str | None = None
    since: datetime | None = None

    def passes(self, row: RunRow) -> bool:
        """True for a row that meets every condition; what a row does not know meets none."""
        return (
            self.command in (None, row.command)
            and (self.backend is None or self.backend in row.backends)
            and self.status in (None, row.status)
            and (self.since is None or (row.started is not None and datetime.fromisoformat(row.started) >= self.since))
        )


def parse_since(text: str, now: datetime) -> datetime:
    """A date (`2026-06-15`), a time (`2026-06-15T10:00`, UTC unless it says otherwise) or an age (`90m`, `12h`, `7d`).

    Raises:
        UsageError: it is none of these.
    """
    if age := re.fullmatch(r"(\d+)([mhd])", text):
        return now - timedelta(**{_AGES[age[2]]: int(age[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"bad time {text!r}: write 2026-06-15, 2026-06-15T10:00 or an age such as 12h or 7d") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def command_of(words: Sequence[str]) -> str | None:
    """The verb of a command line."""
    return words[1] if len(words) > 1 else None


def runs_grid(rows: Iterable[RunRow]) -> Grid:
    """One line a run, in the order given."""
    header = ["run", "status", "points", "requests", "failed", "best tok/s"]
    return Grid(header, [_cells(row) for row in rows], num_labels=2)


def _cells(row: RunRow) -> list[str]:
    counts = [number(count) if count is None else str(count) for count in (row.points, row.requests, row.failed)]
    return [row.run, row.status, *counts, number(row.best_output_tokens_per_s)]
