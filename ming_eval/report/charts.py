"""What the plots show, independent of how they are drawn: curves over load, distributions, a timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ming_eval.metrics import latency
from ming_eval.report.grid import number
from ming_eval.report.overlay import SweepRun
from ming_eval.report.scaling import curves
from ming_eval.results import Point
from ming_eval.types import RequestRecord

_MAX_DISTRIBUTIONS = 4  # loads for which distributions are shown
_MAX_STEPS = 160  # points of a cumulative curve
_MAX_SLOTS, _MAX_BARS = 48, 600
_MARKED = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that says something when it is pointed at; `label` is written beside it."""

    x: float
    y: float
    tip: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. `system` is the number of its backend, which decides its colour; `name` is for the legend."""

    system: int
    name: str
    points: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...] = ()
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over two axes; `x_ticks` are where the loads are, empty for ticks at round numbers."""

    id: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Bar:
    """One request in a timeline, seconds from the beginning of its point; `row` counts from the top."""

    row: int
    start_s: float
    first_s: float | None
    end_s: float
    failed: bool
    tip: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The requests of one system at one load, one row per slot."""

    id: str
    system: int
    title: str
    bars: tuple[Bar, ...]
    num_rows: int
    is_cut: bool


def load_name(point: Point | RequestRecord) -> str:
    """The load of a point in a word."""
    return f"c={point.concurrency}" if point.rate_per_s is None else f"{point.rate_per_s:g}/s"


def load_charts(run: SweepRun) -> list[Chart]:
    """Throughput and latency against load, and throughput against what one user gets of it."""
    points = [point for each in curves(run.summary).values() for point in each]
    if not points:
        return []
    is_open = any(point.rate_per_s is not None for point in points)
    ticks = tuple(sorted({_load(point) for point in points}))
    x_label = "requests per second that arrive" if is_open else "requests in flight"
    over_load = (
        ("throughput", "Throughput", "output tokens per second", (("", lambda p: p.output_tokens_per_s),)),
        ("requests", "Completed requests", "requests per second", (("", lambda p: p.requests_per_s),)),
        ("ttft", "Time to first token", "ms", _of("ttft_ms")),
        ("tpot", "Time per output token", "ms", (("mean", lambda p: p.tpot_ms.mean),)),
        ("e2e", "End to end", "ms", _of("e2e_ms")),
        ("ttfa", "Time to first sound", "ms", _of_speech("ttfa_ms")),
        ("rtf", "Real-time factor", "seconds per second of speech", _of_speech("rtf")),
    )
    found = [
        Chart(f"load-{name}", title, x_label, unit, _lines(run, _load, figures), x_log=True, x_ticks=ticks)
        for name, title, unit, figures in over_load
    ]
    interactivity = Chart(
        "interactivity",
        "Throughput against interactivity",
        "output tokens per second of one user (1 / mean TPOT)",
        "output tokens per second of all",
        _lines(run, _per_user, (("", lambda p: p.output_tokens_per_s),), labelled=True),
    )
    return [chart for chart in (found[0], interactivity, *found[1:]) if chart.lines]


def distribution_charts(run: SweepRun) -> list[Chart]:
    """Share of requests, and of gaps between tokens, that took at most so long; one pair of charts for each load."""
    points = [point for each in curves(run.summary).values() for point in each]
    loads = list(dict.fromkeys(load_name(point) for point in sorted(points, key=_load)))
    charts = []
    for load in _spread(loads):
        for name, title, samples in (
            ("ttft", "Time to first token", _ttfts_ms),
            ("itl", "Gap between tokens", _gaps_ms),
        ):
            lines = tuple(_distributions(run, load, samples))
            if lines:
                charts.append(Chart(f"{name}-{load}", f"{title}, {load}", "ms", "share", lines, x_log=True))
    return charts


def timelines(run: SweepRun) -> list[Timeline]:
    """Each system at its highest load."""
    found = []
    for system, (name, points) in enumerate(curves(run.summary).items()):
        top = max(points, key=_load)
        records = [record for record in run.records if _is_of(record, top, load_name(top)) and record.repeat == 1]
        if records:
            found.append(_timeline(system, f"{name}, {load_name(top)}", records))
    return found


# --- Curves ------------------------------------------------------------------------------------------------------

_Figure = tuple[str, Callable[[Point], float | None]]


def _of(field: str) -> tuple[_Figure, ...]:
    return (("p50", lambda p: getattr(p, field).p50), ("p99", lambda p: getattr(p, field).p99))


def _of_speech(field: str) -> tuple[_Figure, ...]:
    def read(figure: str) -> Callable[[Point], float | None]:
        return lambda point: None if point.speech is None else getattr(getattr(point.speech, field), figure)

    return (("p50", read("p50")), ("p99", read("p99")))


def _load(point: Point) -> float:
    return point.rate_per_s if point.rate_per_s is not None else float(point.concurrency)


def _per_user(point: Point) -> float | None:
    return 1000 / point.tpot_ms.mean if point.tpot_ms.mean else None


def _lines(
    run: SweepRun, x: Callable[[Point], float | None], figures: Sequence[_Figure], *, labelled: bool = False
) -> tuple[Line, ...]:
    lines = []
    for system, (name, points) in enumerate(curves(run.summary).items()):
        for place, (figure, y) in enumerate(figures):
            label = f"{name} {figure}".rstrip()
            marks = tuple(_marks(label, points, x, y, labelled=labelled))
            if marks:
                lines.append(Line(system, label, tuple((mark.x, mark.y) for mark in marks), marks, dashed=place > 0))
    return tuple(lines)


def _marks(
    name: str,
    points: Iterable[Point],
    x: Callable[[Point], float | None],
    y: Callable[[Point], float | None],
    *,
    labelled: bool,
) -> Iterable[Mark]:
    for point in points:
        across, up = x(point), y(point)
        if across is not None and up is not None:
            load = load_name(point)
            failed = f", {point.failed} of {point.requests} failed" if point.failed else ""
            yield Mark(across, up, f"{name}, {load}: {number(up)}{failed}", load if labelled else "")


# --- Distributions -----------------------------------------------------------------------------------------------


def _spread(loads: Sequence[str]) -> list[str]:
    """At most `_MAX_DISTRIBUTIONS` of them, from the first to the last."""
    if len(loads) <= _MAX_DISTRIBUTIONS:
        return list(loads)
    last = len(loads) - 1
    return [loads[round(i * last / (_MAX_DISTRIBUTIONS - 1))] for i in range(_MAX_DISTRIBUTIONS)]


def _distributions(run: SweepRun, load: str, samples: Callable[[RequestRecord], Iterable[float]]) -> Iterable[Line]:
    for system, (name, points) in enumerate(curves(run.summary).items()):
        values = [v for record in run.records if _is_of(record, points[0], load) for v in samples(record) if v > 0]
        if len(values) > 1:
            yield _cumulative(system, name, np.sort(np.array(values)))


def _cumulative(system: int, name: str, ordered: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Line:
    shares = np.linspace(0, 1, min(_MAX_STEPS, len(ordered)))
    values = np.quantile(ordered, shares)
    marks = []
    for share, what in _MARKED:
        value = float(np.quantile(ordered, share))
        marks.append(Mark(value, share, f"{name}: {what} {number(value)} ms of {len(ordered)}"))
    return Line(system, name, tuple(zip(values.tolist(), shares.tolist(), strict=True)), tuple(marks))


def _ttfts_ms(record: RequestRecord) -> Iterable[float]:
    value = latency.ttft_s(record)
    return () if value is None else (1000 * value,)


def _gaps_ms(record: RequestRecord) -> Iterable[float]:
    return (1000 * gap for gap in latency.itl_samples_s(record))


def _is_of(record: RequestRecord, point: Point, load: str) -> bool:
    """True for a measured request of the point's backend and task, at `load`."""
    is_alike = (record.backend, record.task) == (point.backend, point.task)
    return is_alike and not record.warmup and load_name(record) == load


# --- Timeline ----------------------------------------------------------------------------------------------------


def _timeline(system: int, title: str, records: Sequence[RequestRecord]) -> Timeline:
    """The first slots of a closed loop, the first requests of an open one."""
    ordered = sorted(records, key=lambda record: record.sent_s)
    start_s = latency.t0_s(ordered[0])
    rows = {record.id: record.slot if record.slot is not None else i for i, record in enumerate(ordered)}
    shown = [record for record in ordered if rows[record.id] < _MAX_SLOTS][:_MAX_BARS]
    bars = tuple(_bar(record, rows[record.id], start_s) for record in shown)
    num_rows = 1 + max(bar.row for bar in bars)
    return Timeline(f"timeline-{system}", system, title, bars, num_rows, len(shown) < len(records))


def _bar(record: RequestRecord, row: int, zero_s: float) -> Bar:
    first = None if record.first_output_s is None else record.first_output_s - zero_s
    end_s = (record.last_output_s if record.ok and record.last_output_s is not None else record.done_s) - zero_s
    ttft, e2e = latency.ttft_s(record), latency.e2e_s(record)
    if record.failure is not None:
        tip = f"{record.id}: {record.failure.value} after {number(record.done_s - record.sent_s)} s"
    else:
        times = f"TTFT {number(_ms(ttft))} ms, E2E {number(_ms(e2e))} ms"
        tip = f"{record.id}: {times}, {record.num_output_tokens or '?'} tokens"
    return Bar(row, record.sent_s - zero_s, first, end_s, not record.ok, tip)


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else 1000 * value_s
