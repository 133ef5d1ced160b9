"""What a server's output costs: figures per GPU and per money."""

from __future__ import annotations

from dataclasses import dataclass

from ming_eval.report.grid import Grid, number
from ming_eval.report.scaling import curves
from ming_eval.results import Point, Summary


@dataclass(frozen=True, slots=True)
class Cost:
    """What a server runs on: how many GPUs, and what all of them together cost per hour; None where not given."""

    gpus: int | None = None
    price_per_hour: float | None = None

    def __bool__(self) -> bool:
        return self.gpus is not None or self.price_per_hour is not None


@dataclass(frozen=True, slots=True)
class CostRow:
    """Figures of one point; prices in the unit of `price_per_hour`, None where a figure or a price is not known."""

    backend: str
    concurrency: int
    rate_per_s: float | None
    output_tokens_per_s: float | None
    output_tokens_per_s_per_gpu: float | None
    requests_per_s_per_gpu: float | None
    price_per_million_output_tokens: float | None
    price_per_thousand_requests: float | None


def cost_rows(summary: Summary, cost: Cost) -> list[CostRow]:
    """One row per point, by backend and rising load."""
    return [_row(point, cost) for points in curves(summary).values() for point in points]


def cost_grid(rows: list[CostRow]) -> Grid:
    """The rows as a table."""
    header = ["backend", "load", "tok/s", "tok/s per GPU", "req/s per GPU", "price per 1M tok", "price per 1k req"]
    return Grid(header, [_cells(row) for row in rows], num_labels=2)


def _row(point: Point, cost: Cost) -> CostRow:
    price_per_s = None if cost.price_per_hour is None else cost.price_per_hour / 3600
    tokens, requests = point.output_tokens_per_s, point.requests_per_s
    return CostRow(
        backend=point.backend,
        concurrency=point.concurrency,
        rate_per_s=point.rate_per_s,
        output_tokens_per_s=tokens,
        output_tokens_per_s_per_gpu=_ratio(tokens, cost.gpus),
        requests_per_s_per_gpu=_ratio(requests, cost.gpus),
        price_per_million_output_tokens=_scaled(_ratio(price_per_s, tokens), 1e6),
        price_per_thousand_requests=_scaled(_ratio(price_per_s, requests), 1e3),
    )


def _cells(row: CostRow) -> list[str]:
    load = f"c={row.concurrency}" if row.rate_per_s is None else f"{row.rate_per_s:g}/s"
    figures = (
        row.output_tokens_per_s,
        row.output_tokens_per_s_per_gpu,
        row.requests_per_s_per_gpu,
        row.price_per_million_output_tokens,
        row.price_per_thousand_requests,
    )
    return [row.backend, load, *map(number, figures)]


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
