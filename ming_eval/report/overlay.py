"""Several stored runs as one: backends with unique names, their points and requests together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ming_eval.manifest import Manifest
from ming_eval.results import Summary
from ming_eval.types import RequestRecord


@dataclass(frozen=True, slots=True)
class SweepRun:
    """A stored sweep: what was measured, its figures, and every request; `folder` holds speech and samples of media."""

    manifest: Manifest
    summary: Summary
    records: Sequence[RequestRecord]
    folder: Path | None = None


def unique_labels(names: Sequence[tuple[str, str]]) -> list[str]:
    """A label for each (backend, run): the backend's name, where that is not enough with the start of its run."""
    uses = Counter(backend for backend, _ in names)
    stamps = [(backend, run.partition("-")[0]) for backend, run in names]
    is_clear = len(set(stamps)) == len(stamps)
    return [
        backend if uses[backend] == 1 else f"{backend}@{stamp if is_clear else run}"
        for (backend, run), (_, stamp) in zip(names, stamps, strict=True)
    ]


def overlay(runs: Sequence[SweepRun]) -> SweepRun:
    """The runs as one, in the order given; settings, seed and verdict are those of the first."""
    if len(runs) == 1:
        return runs[0]
    names = [(backend.name, run.summary.run) for run in runs for backend in run.summary.backends]
    labels = iter(unique_labels(names))
    renamed = [_renamed(run, {backend.name: next(labels) for backend in run.summary.backends}) for run in runs]
    summaries = [run.summary for run in renamed]
    requests, failed = sum(each.requests for each in summaries), sum(each.failed for each in summaries)
    merged = replace(
        summaries[0],
        backends=tuple(backend for each in summaries for backend in each.backends),
        points=tuple(point for each in summaries for point in each.points),
        requests=requests,
        failed=failed,
        error_rate=failed / requests if requests else None,
    )
    return SweepRun(renamed[0].manifest, merged, [record for run in renamed for record in run.records])


def _renamed(run: SweepRun, labels: dict[str, str]) -> SweepRun:
    summary = replace(
        run.summary,
        backends=tuple(replace(backend, name=labels[backend.name]) for backend in run.summary.backends),
        points=tuple(replace(point, backend=labels[point.backend]) for point in run.summary.points),
    )
    records = [replace(record, backend=labels[record.backend]) for record in run.records]
    return SweepRun(run.manifest, summary, records)
