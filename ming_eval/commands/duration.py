"""How long a closed loop will take, guessed from what the last stored sweep of the same server saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ming_eval import results
from ming_eval.errors import DataError
from ming_eval.load.plan import Level
from ming_eval.results import Point, Summary
from ming_eval.run_folder import stored_runs
from ming_eval.targets import Target

_MOST_RUNS = 50  # that are looked at, from the newest on


@dataclass(frozen=True, slots=True)
class Experience:
    """Points of an earlier run of the same server."""

    run: str
    points: tuple[Point, ...]

    def seconds(self, level: Level, num_requests: int, num_tokens: float) -> float | None:
        """A guess for `num_requests` of `num_tokens` output tokens each, from the point of the nearest load.

        None where there is no point of the same task, or none that says how long its requests took.
        """
        known = [
            (abs(point.concurrency - level.concurrency), point.e2e_ms.mean, _mean_tokens(point))
            for point in self.points
            if point.task == level.task and point.rate_per_s is None
        ]
        usable = [(far, e2e_ms, tokens) for far, e2e_ms, tokens in known if e2e_ms is not None and tokens]
        if not usable:
            return None
        _, e2e_ms, tokens = min(usable)
        return num_requests / min(level.concurrency, num_requests) * e2e_ms / 1000 * num_tokens / tokens


def find_experience(out: Path, targets: Sequence[Target]) -> Experience | None:
    """The newest complete sweep in `out` of the first target, or of the bundled engine where there is none."""
    url = targets[0].base_url if targets else None
    for folder in list(reversed(stored_runs(out)))[:_MOST_RUNS]:
        points = _points(folder, url)
        if points:
            return Experience(folder.name, points)
    return None


def _points(folder: Path, url: str | None) -> tuple[Point, ...]:
    try:
        summary: Summary = results.read(folder)
    except DataError:  # no summary yet, or of another version
        return ()
    names = {each.name for each in summary.backends if (each.launched if url is None else each.url == url)}
    return tuple(point for point in summary.points if point.backend in names and not point.interrupted)


def _mean_tokens(point: Point) -> float | None:
    good = point.requests - point.failed
    return point.output_tokens / good if point.output_tokens and good else None
