"""The charts of a sweep as PNG files, where matplotlib is installed (the `report` extra)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ming_eval.errors import DataError
from ming_eval.report.charts import Chart, Line, Timeline, distribution_charts, load_charts, timelines
from ming_eval.report.overlay import SweepRun, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_PLOTS = (
    "no PNG plots: matplotlib is not installed; pip install 'ming-eval[report]' brings it (in a checkout '.[report]')"
)

# The colours of the page in its light theme.
_COLOURS = ("#1f6fd6", "#d9601a", "#138a62", "#a63d9c", "#b58900", "#00838f", "#c2324f", "#66707d")
_BAD = "#c62f3b"
_DPI = 150


def can_plot() -> bool:
    """True where matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_plots(runs: Sequence[SweepRun], folder: Path) -> list[Path]:
    """Write one PNG per chart and timeline into `folder`, which is made; needs matplotlib.

    Raises:
        DataError: a file cannot be written.
    """
    run = overlay(runs)
    charts = [*load_charts(run), *distribution_charts(run)]
    figures = [(chart.id, _chart_figure(chart)) for chart in charts]
    figures += [(timeline.id, _timeline_figure(timeline)) for timeline in timelines(run)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_save(figure, folder / _file_name(name)) for name, figure in figures]
    except OSError as exc:
        raise DataError(f"cannot write plots into {folder}: {exc.strerror}") from exc


def _file_name(chart_id: str) -> str:
    return f"{chart_id.replace('=', '').replace('/', '-per-')}.png"


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path


def _chart_figure(chart: Chart) -> Figure:
    figure, axes = _empty(7.0, 4.2)
    for line in chart.lines:
        _draw(axes, line)
    if chart.x_log:
        axes.set_xscale("log")
    if chart.x_ticks:
        axes.set_xticks(chart.x_ticks, [f"{tick:g}" for tick in chart.x_ticks])
        axes.minorticks_off()
    if chart.y_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, line: Line) -> None:
    colour, style = _COLOURS[line.system % len(_COLOURS)], "--" if line.dashed else "-"
    axes.plot(*_columns(line.points), style, color=colour, label=line.name)
    axes.plot(*_columns((mark.x, mark.y) for mark in line.marks), "o", color=colour, markersize=4)
    for mark in line.marks:
        axes.annotate(mark.label, (mark.x, mark.y), (4, 4), textcoords="offset points", fontsize=7)


def _timeline_figure(timeline: Timeline) -> Figure:
    figure, axes = _empty(11.0, 1.4 + 0.11 * timeline.num_rows)
    colour = _COLOURS[timeline.system % len(_COLOURS)]
    for bar in timeline.bars:
        first_s = bar.end_s if bar.first_s is None else bar.first_s
        shade = _BAD if bar.failed else colour
        axes.barh(bar.row, first_s - bar.start_s, left=bar.start_s, color=shade, alpha=0.35)
        axes.barh(bar.row, bar.end_s - first_s, left=first_s, color=shade)
    axes.invert_yaxis()
    axes.set(title=timeline.title, xlabel="seconds", yticks=[])
    return figure


def _empty(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # without pyplot: no window system, no state between figures

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color="#e9ecf0")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]
