"""What a run has so far, also from an earlier process that did not get to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ming_eval.load.plan import Level, level_of
from ming_eval.run_folder import has_records, read_phases, read_records
from ming_eval.types import Phase, RequestRecord

PointKey = tuple[str, Level, int]  # backend, load, which pass over the points


@dataclass(frozen=True, slots=True)
class Done:
    """What need not be done again, by point.

    `indices`: measured requests that have ended. `complete`: points that need no more. `used_s`: seconds that were
    measured.
    """

    indices: Mapping[PointKey, frozenset[int]]
    complete: frozenset[PointKey]
    used_s: Mapping[PointKey, float]


@dataclass(slots=True)
class Kept:
    """Everything that has ended; grows while a sweep runs."""

    records: list[RequestRecord] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)

    @classmethod
    def stored(cls, folder: Path) -> Kept:
        """What a folder holds; nothing where no request has ended yet.

        Raises:
            DataError: a file cannot be read.
        """
        if not has_records(folder):
            return cls()
        return cls(list(read_records(folder)), list(read_phases(folder)))

    def done(self) -> Done:
        """The present state by point."""
        by_point: dict[PointKey, list[RequestRecord]] = {}
        for record in self.records:
            if not record.warmup:
                by_point.setdefault((record.backend, level_of(record), record.repeat), []).append(record)
        return Done(
            {key: frozenset(record.index for record in mine) for key, mine in by_point.items()},
            frozenset((p.backend, level_of(p), p.repeat) for p in self.phases if p.complete),
            {key: max(r.done_s for r in mine) - min(r.sent_s for r in mine) for key, mine in by_point.items()},
        )
