"""What is compared: one backend of one stored run, with its measured requests by point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval import results, run_folder
from ming_eval.errors import DataError
from ming_eval.manifest import Manifest
from ming_eval.metrics.validity import Validity
from ming_eval.report.overlay import unique_labels
from ming_eval.results import Backend, Summary
from ming_eval.types import RequestRecord, Task


@dataclass(frozen=True, slots=True)
class PointKey:
    """Which load a point is; points of two systems are compared when their keys are equal."""

    task: Task
    concurrency: int
    rate_per_s: float | None = None

    @classmethod
    def of(cls, record: RequestRecord) -> PointKey:
        """The point that a record belongs to."""
        return cls(record.task, record.concurrency, record.rate_per_s)

    @property
    def order(self) -> tuple[Task, float, int]:
        """Rising load."""
        return self.task, self.rate_per_s or 0.0, self.concurrency

    def __str__(self) -> str:
        load = f"c={self.concurrency}" if self.rate_per_s is None else f"{self.rate_per_s:g}/s"
        return load if self.task is Task.T2T else f"{self.task.value} {load}"


@dataclass(frozen=True, slots=True)
class System:
    """`label` names it in tables; `points` holds measured requests only, in the order of their index.

    `folder` is where the run is stored, None for one that has just been measured. `validity` is what the
    client said of itself at these points, as far as the run holds it.
    """

    label: str
    manifest: Manifest
    backend: Backend
    points: Mapping[PointKey, Sequence[RequestRecord]]
    folder: Path | None = None
    validity: Mapping[PointKey, Validity] = field(default_factory=dict)

    @property
    def records(self) -> list[RequestRecord]:
        """The measured requests of all points."""
        return [record for records in self.points.values() for record in records]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The requests of one point that both systems got, in one order, and how many only one of them got."""

    first: Sequence[RequestRecord]
    second: Sequence[RequestRecord]
    num_unpaired: int


def load_systems(folders: Sequence[Path]) -> list[System]:
    """Every backend of every run, in the order given.

    Raises:
        DataError: a run cannot be read or holds no load.
    """
    systems = []
    for folder in folders:
        found = systems_of(manifests.read(folder), run_folder.read_records(folder))
        summary = _summary(folder)
        systems += [replace(system if summary is None else judged(system, summary), folder=folder) for system in found]
    return _with_unique_labels(systems)


def judged(system: System, summary: Summary) -> System:
    """With the client's verdict on itself at the system's points."""
    own = [each for each in summary.points if each.backend == system.backend.name]
    keyed = {PointKey(Task(each.task), each.concurrency, each.rate_per_s): each.validity for each in own}
    return replace(system, validity={key: found for key, found in keyed.items() if found is not None})


def _summary(folder: Path) -> Summary | None:
    """None of a run that was killed."""
    try:
        return results.read(folder)
    except DataError:
        return None


def load_all(runs: Iterable[tuple[Manifest, Iterable[RequestRecord], Summary]]) -> list[System]:
    """As `load_systems`, of runs that have been read."""
    return _with_unique_labels(
        [judged(system, summary) for manifest, records, summary in runs for system in systems_of(manifest, records)]
    )


def systems_of(manifest: Manifest, records: Iterable[RequestRecord]) -> list[System]:
    """The backends of one run.

    Raises:
        DataError: a backend has no measured request.
    """
    points: dict[str, dict[PointKey, list[RequestRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if not record.warmup:
            points[record.backend][PointKey.of(record)].append(record)
    return [
        System(each.name, manifest, each, _ordered(points[each.name], manifest, each.name))
        for each in manifest.backends
    ]


def pair(first: Sequence[RequestRecord], second: Sequence[RequestRecord]) -> Pairs:
    """Requests with the same id side by side, in the order of `first`."""
    by_id = {record.id: record for record in second}
    shared = [record for record in first if record.id in by_id]
    return Pairs(shared, [by_id[record.id] for record in shared], len(first) + len(second) - 2 * len(shared))


def _ordered(
    points: Mapping[PointKey, list[RequestRecord]], manifest: Manifest, backend: str
) -> dict[PointKey, Sequence[RequestRecord]]:
    if not points:
        raise DataError(f"run {manifest.run} holds no measured request of a load at {backend}: nothing to compare")
    return {
        key: sorted(points[key], key=lambda record: record.index) for key in sorted(points, key=lambda key: key.order)
    }


def _with_unique_labels(systems: Sequence[System]) -> list[System]:
    labels = unique_labels([(system.backend.name, system.manifest.run) for system in systems])
    return [replace(system, label=label) for system, label in zip(systems, labels, strict=True)]
