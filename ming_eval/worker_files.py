"""Files of processes that share a load: each appends to its own, `requests.<k>.jsonl` beside `requests.jsonl`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from ming_eval.types import ClientHealth, Outage, Phase


def worker_file(name: str, worker: int | None) -> str:
    """The file of one process; without one, the file of the run."""
    return name if worker is None else f"{name.removesuffix('.jsonl')}{_mark(name)}{worker}.jsonl"


def part_files(path: Path) -> list[Path]:
    """The files of processes that belong to `path`, in the order of the processes."""
    pattern = re.compile(rf"{re.escape(path.stem)}{re.escape(_mark(path.as_posix()))}(\d+)\.jsonl")
    found = [(int(match[1]), each) for each in path.parent.glob("*.jsonl") if (match := pattern.fullmatch(each.name))]
    return [each for _, each in sorted(found)]


def split_files(folder: Path) -> set[Path]:
    """Files of `folder` that have parts, whether or not they are there themselves."""
    return {each.with_name(f"{each.name.rpartition('@')[0]}.jsonl") for each in folder.glob("*@*.jsonl")}


def _mark(name: str) -> str:
    """What stands before the number of the process: a name below `outputs/` may end in a rate such as 2.5."""
    return "@" if "outputs/" in name else "."


def read_lines(path: Path, *, with_parts: bool = True) -> Iterator[tuple[Path, int, bytes]]:
    """(file, number, line) of `path` and its parts, without a last line that a kill cut short.

    A line of a part that was joined already is left out: a kill may have come between joining and removing.

    Raises:
        OSError: a file cannot be read.
    """
    parts = part_files(path) if with_parts else []
    joined: set[bytes] = set()
    for each in [path, *parts] if path.exists() or not parts else parts:
        *lines, _rest = each.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if each is path or line not in joined:
                yield each, number, line
        if each is path and parts:
            joined.update(lines)


def join_parts(path: Path, lines: Iterable[bytes]) -> None:
    """Replace `path` by `lines`, which hold all that was in it and in its parts, and remove the parts.

    Raises:
        OSError: a file cannot be written.
    """
    parts = part_files(path)
    if not parts:
        return
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
    os.replace(draft, path)
    for part in parts:
        part.unlink()


def combine(files: Sequence[Sequence[Phase]]) -> Iterator[Phase]:
    """The phases of processes that shared points, one for each time that a point was measured."""
    keys = dict.fromkeys(_key(phase) for phases in files for phase in phases)
    for key in keys:
        turns = zip_longest(*([phase for phase in phases if _key(phase) == key] for phases in files))
        for turn in turns:
            yield _one([phase for phase in turn if phase is not None])


def _key(phase: Phase) -> tuple[object, ...]:
    return phase.backend, phase.concurrency, phase.rate_per_s, phase.task, phase.repeat


def _one(phases: Sequence[Phase]) -> Phase:
    """A phase that was complete in every process is complete."""
    first = phases[0]
    return replace(
        first,
        started_s=min(phase.started_s for phase in phases),
        ended_s=max(phase.ended_s for phase in phases),
        complete=len(phases) == first.processes and all(phase.complete for phase in phases),
        stopped=next((phase.stopped for phase in phases if phase.stopped is not None), None),
        outages=_union(outage for phase in phases for outage in phase.outages),
        connects_s=tuple(time_s for phase in phases for time_s in phase.connects_s),
        health=_worst([phase.health for phase in phases if phase.health is not None]),
    )


def _union(outages: Iterable[Outage]) -> tuple[Outage, ...]:
    """Every process notices an outage for itself."""
    found: list[Outage] = []
    for outage in sorted(outages, key=lambda outage: outage.start_s):
        if found and outage.start_s <= found[-1].end_s:
            found[-1] = Outage(found[-1].start_s, max(found[-1].end_s, outage.end_s))
        else:
            found.append(outage)
    return tuple(found)


def _worst(healths: Sequence[ClientHealth]) -> ClientHealth | None:
    """Processor time of the busiest process, the longest lags of any, counts of all."""
    if not healths:
        return None
    busiest = max(healths, key=lambda health: health.cpu_s / health.wall_s if health.wall_s > 0 else 0.0)
    drifts_s = [health.clock_drift_s for health in healths if health.clock_drift_s is not None]
    return replace(
        busiest,
        loop_lag_s=_max(health.loop_lag_s for health in healths),
        num_loop_samples=sum(health.num_loop_samples for health in healths),
        receive_lag_s=_max(health.receive_lag_s for health in healths),
        num_receive_stamps=sum(health.num_receive_stamps for health in healths),
        clock_drift_s=max(drifts_s, key=abs, default=None),
        gc_pause_max_s=max(health.gc_pause_max_s for health in healths),
        gc_pauses_s=sum(health.gc_pauses_s for health in healths),
    )


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
