"""How throughput grows with concurrency; what the table and the observations both need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from ming_eval.results import Point, Summary
from ming_eval.types import Task

KNEE_ELASTICITY = 0.5  # below it, doubling the load brings less than 41 % more throughput


@dataclass(frozen=True, slots=True)
class Knee:
    """The last point that was worth going to: beyond it throughput grows with less than the root of the load."""

    at: Point
    next: Point


def curves(summary: Summary) -> dict[str, list[Point]]:
    """The points of each backend by rising load; of each task of a backend where there are several."""
    ordered = sorted(summary.points, key=lambda point: (point.backend, point.task, point.load))
    found = {key: list(points) for key, points in groupby(ordered, key=lambda point: (point.backend, point.task))}
    tasks = [task for task in Task if any(task == point.task for point in summary.points)]
    return {
        f"{backend.name} {task}" if len(tasks) > 1 else backend.name: found[backend.name, task]
        for backend in summary.backends
        for task in tasks
        if (backend.name, task) in found
    }


def speedup(point: Point, base: Point) -> float | None:
    """Output tokens per second against those of `base`."""
    if not point.output_tokens_per_s or not base.output_tokens_per_s:
        return None
    return point.output_tokens_per_s / base.output_tokens_per_s


def elasticity(low: Point, high: Point) -> float | None:
    """Exponent with which throughput follows load between two points: 1 is proportional, 0 is flat."""
    gain = speedup(high, low)
    return math.log(gain) / math.log(high.load / low.load) if gain is not None else None


def find_knee(points: Sequence[Point]) -> Knee | None:
    """The knee of one backend's curve, None if there is none or fewer than three points have a throughput.

    It lies before the first step from which on every step stays below `KNEE_ELASTICITY`.
    """
    known = [point for point in points if point.output_tokens_per_s]
    if len(known) < 3:
        return None
    knee = None
    for low, high in reversed(list(pairwise(known))):
        grown = elasticity(low, high)
        assert grown is not None  # both have a throughput
        if grown >= KNEE_ELASTICITY:
            break
        knee = Knee(low, high)
    return knee
