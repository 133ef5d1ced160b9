"""The table of a sweep: one row per backend and concurrency."""

from __future__ import annotations

from ming_eval.report.grid import MISSING, Grid, number, pair
from ming_eval.report.scaling import curves, speedup
from ming_eval.results import Point, Summary
from ming_eval.types import Task

_EXAMPLE_CHARS = 200


def sweep_grid(summary: Summary) -> Grid:
    """What a person would paste into a pull request; times in milliseconds unless the header says s."""
    by_backend = curves(summary)
    first = min((points[0] for points in by_backend.values()), key=lambda point: point.load, default=None)
    is_open = first is not None and first.rate_per_s is not None
    has_tasks = any(point.task != Task.T2T for point in summary.points)
    header = [
        "backend",
        *(["task"] if has_tasks else []),
        "req/s asked" if is_open else "c",
        "requests",
        "failed",
        "wall s",
        "E2E p50 / p95",
        "TTFT p50 / p95",
        "TPOT",
        "ITL p99",
    ]
    header += ["req/s", "tok/s", f"x {first.load_name.split()[-1] if first else 'c=1'}"]
    rows = [_row(point, points[0], has_tasks=has_tasks) for points in by_backend.values() for point in points]
    return Grid(header, rows, num_labels=2 if has_tasks else 1)


def table_notes(summary: Summary) -> list[str]:
    """What belongs below the table: points that were cut short, and an error text for each class of failures."""
    return [*_interrupted(summary), *_examples(summary)]


def _interrupted(summary: Summary) -> list[str]:
    cut = [point for point in summary.points if point.interrupted]
    is_counted = summary.settings.get("duration_s") is None and summary.settings.get("until_ci") is None
    lines = []
    for point in cut:
        which = f"{point.backend} {point.load_name} " if len(cut) > 1 else ""
        count = f"{point.requests} of {point.planned}" if is_counted else str(point.requests)
        lines.append(f"* {which}interrupted: {count} requests; no rates, since what was in flight was given up")
    return lines


def _examples(summary: Summary) -> list[str]:
    found: dict[str, str] = {}
    for point in summary.points:
        for failure, text in point.failure_examples.items():
            found.setdefault(failure, text)
    return [f"{failure}, for example: {_shown(text)}" for failure, text in sorted(found.items())]


def _shown(text: str) -> str:
    """One line without control characters: a server may send anything."""
    line = "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
    return line if len(line) <= _EXAMPLE_CHARS else f"{line[: _EXAMPLE_CHARS - 1]}…"


def _row(point: Point, base: Point, *, has_tasks: bool) -> list[str]:
    scale = speedup(point, base)
    return [
        point.backend,
        *([point.task] if has_tasks else []),
        f"{point.load:g}{'*' if point.interrupted else ''}",
        str(point.requests),
        str(point.failed),
        number(point.wall_s),
        pair(point.e2e_ms.p50, point.e2e_ms.p95),
        pair(point.ttft_ms.p50, point.ttft_ms.p95),
        number(point.tpot_ms.mean),
        number(point.itl_ms.p99),
        number(point.requests_per_s),
        number(point.output_tokens_per_s),
        MISSING if scale is None else f"{scale:.2f}",
    ]
