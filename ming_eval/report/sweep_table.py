"""The table of a sweep: one row per backend and concurrency."""

from __future__ import annotations

from ming_eval.report.grid import MISSING, Grid, number, pair
from ming_eval.report.scaling import curves, speedup
from ming_eval.results import Point, Summary


def sweep_grid(summary: Summary) -> Grid:
    """What a person would paste into a pull request; times in milliseconds unless the header says s."""
    by_backend = curves(summary)
    base = min((points[0].concurrency for points in by_backend.values()), default=1)
    header = ["backend", "c", "requests", "failed", "wall s", "E2E p50 / p95", "TTFT p50 / p95", "TPOT", "ITL p99"]
    header += ["req/s", "tok/s", f"x c={base}"]
    rows = [_row(point, points[0]) for points in by_backend.values() for point in points]
    return Grid(header, rows)


def _row(point: Point, base: Point) -> list[str]:
    scale = speedup(point, base)
    return [
        point.backend,
        str(point.concurrency),
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
