"""Charts as SVG elements for an HTML page; colours come from the page's style sheet, by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ming_eval.report.axes import Axis, linear_axis, log_axis
from ming_eval.report.charts import Chart, Line, Mark, Timeline

_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 14, 46
_LABEL_WIDTH = 36  # of a mark that says its load
_ROW_HEIGHT = 9
_TIMELINE_WIDTH = 1140
NUM_COLOURS = 8


def chart_svg(chart: Chart) -> str:
    """The chart without title and legend, which belong to the page."""
    x, y = _axes(chart)
    parts = [
        *_grid(x, y),
        *_axis_labels(chart, x, y),
        *(_line(line, x, y) for line in chart.lines),
        *(_mark(line, mark, x, y) for line in chart.lines for mark in line.marks),
    ]
    return _svg(chart.id, chart.title, _WIDTH, _HEIGHT, parts)


def timeline_svg(timeline: Timeline) -> str:
    """Bars from sending to last output, pale until the first output."""
    height = _TOP + timeline.num_rows * _ROW_HEIGHT + _BOTTOM
    bottom = height - _BOTTOM
    x = linear_axis([bar.end_s for bar in timeline.bars], _LEFT, _TIMELINE_WIDTH - _RIGHT, num_ticks=8)
    parts = [_tick_line(x.place(tick), _TOP, x.place(tick), bottom) for tick in x.ticks]
    parts += [_text(x.place(tick), bottom + 16, _tick_text(tick), "tick", "middle") for tick in x.ticks]
    parts.append(_text((x.start + x.end) / 2, height - 8, "seconds", "label", "middle"))
    colour = _colour(timeline.system)
    for bar in timeline.bars:
        top = _TOP + bar.row * _ROW_HEIGHT + 1
        first = bar.end_s if bar.first_s is None else bar.first_s
        kind = "bad" if bar.failed else colour
        waits = _rect(x.place(bar.start_s), top, x.place(first) - x.place(bar.start_s), f"{kind} wait")
        flows = _rect(x.place(first), top, x.place(bar.end_s) - x.place(first), kind)
        parts.append(f'<g class="pt" data-tip="{escape(bar.tip)}">{waits}{flows}</g>')
    return _svg(timeline.id, timeline.title, _TIMELINE_WIDTH, height, parts)


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    xs = [x for line in chart.lines for x, _ in line.points]
    ys = [y for line in chart.lines for _, y in line.points]
    left, right, top, bottom = _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    x = log_axis(xs, left, right, chart.x_ticks) if chart.x_log else linear_axis(xs, left, right)
    return x, log_axis(ys, bottom, top) if chart.y_log else linear_axis(ys, bottom, top)


def _grid(x: Axis, y: Axis) -> Iterable[str]:
    for tick in x.ticks:
        yield _tick_line(x.place(tick), y.end, x.place(tick), y.start)
    for tick in y.ticks:
        yield _tick_line(x.start, y.place(tick), x.end, y.place(tick))


def _axis_labels(chart: Chart, x: Axis, y: Axis) -> Iterable[str]:
    for tick in _readable(x):
        yield _text(x.place(tick), y.start + 16, _tick_text(tick), "tick", "middle")
    for tick in y.ticks:
        yield _text(x.start - 8, y.place(tick) + 4, _tick_text(tick), "tick", "end")
    yield _text((x.start + x.end) / 2, _HEIGHT - 8, chart.x_label, "label", "middle")
    middle = (y.start + y.end) / 2
    turned = f'transform="translate(14 {middle:.0f}) rotate(-90)"'
    yield f'<text class="label" text-anchor="middle" {turned}>{escape(chart.y_label)}</text>'


def _readable(axis: Axis) -> list[float]:
    """The ticks whose texts do not run into the one before."""
    shown: list[float] = []
    for tick in axis.ticks:
        if not shown or axis.place(tick) - axis.place(shown[-1]) >= 26:
            shown.append(tick)
    return shown


def _line(line: Line, x: Axis, y: Axis) -> str:
    path = " ".join(f"{x.place(across):.1f},{y.place(up):.1f}" for across, up in line.points)
    dashed = " dashed" if line.dashed else ""
    return f'<polyline class="line {_colour(line.system)}{dashed}" points="{path}"/>'


def _mark(line: Line, mark: Mark, x: Axis, y: Axis) -> str:
    across, up = x.place(mark.x), y.place(mark.y)
    dot = f'<circle class="dot {_colour(line.system)}" cx="{across:.1f}" cy="{up:.1f}" r="3.5"/>'
    reach = f'<circle class="reach" cx="{across:.1f}" cy="{up:.1f}" r="11"/>'
    text = ""
    if mark.label:
        is_at_edge = across > x.end - _LABEL_WIDTH
        place, anchor = (across - 7, "end") if is_at_edge else (across + 7, "start")
        text = _text(place, up - 7, mark.label, f"tick {_colour(line.system)}", anchor)
    return f'{text}<g class="pt" data-tip="{escape(mark.tip)}">{dot}{reach}</g>'


def _svg(name: str, title: str, width: float, height: float, parts: Sequence[str]) -> str:
    body = "".join(parts)
    label = escape(title)
    return f'<svg id="{escape(name)}" role="img" aria-label="{label}" viewBox="0 0 {width} {height}">{body}</svg>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tick_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _rect(x: float, y: float, width: float, kind: str) -> str:
    return f'<rect class="bar {kind}" x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{_ROW_HEIGHT - 2}"/>'


def _colour(system: int) -> str:
    return f"s{system % NUM_COLOURS}"


def _tick_text(value: float) -> str:
    """Short: 1200 as 1.2k, no zeros at the end."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"
