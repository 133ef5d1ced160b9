"""Sections of the HTML page that show sweeps, one or several overlaid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ming_eval.manifest import command_line
from ming_eval.report.charts import Chart, Line, Timeline, distribution_charts, load_charts, load_name, timelines
from ming_eval.report.document import facts
from ming_eval.report.grid import number, percent
from ming_eval.report.html import Section, bullet_list, note, table, warning
from ming_eval.report.media_page import media_cards
from ming_eval.report.observations import observations
from ming_eval.report.overlay import SweepRun, overlay
from ming_eval.report.scaling import curves
from ming_eval.report.svg import NUM_COLOURS, chart_svg, timeline_svg
from ming_eval.report.sweep_table import sweep_grid, table_notes
from ming_eval.report.workload_tables import workload_tables
from ming_eval.results import Backend, Point

_POINTS_NOTE = (
    "Times in milliseconds unless the header says s. TTFT: sent to first output; TPOT: mean over requests of the time "
    "per output token after the first event; ITL: token-weighted gap between tokens. Failed requests enter no latency "
    "and no rate. Click a header to sort."
)
_DISTRIBUTION_NOTE = (
    "Share of requests, or of gaps between tokens, that took at most so long. The dots are p50, p95 and p99."
)
_TIMELINE_NOTE = (
    "One bar per request at the highest load: pale until the first output, full until the last one; failed ones in red."
)


def sweep_sections(runs: Sequence[SweepRun]) -> list[Section]:
    """Overview, curves, points, distributions, timelines, and how to repeat it."""
    run = overlay(runs)
    found = [
        Section("overview", "Overview", _warnings(runs) + _cards(run) + bullet_list(_observations(run))),
        _charts("load", "Load curves", load_charts(run)),
        Section(
            "points",
            "Points",
            table(sweep_grid(run.summary)) + "".join(map(note, [*table_notes(run.summary), _POINTS_NOTE])),
        ),
        *_workload(run, runs),
        _charts("distributions", "Distributions", distribution_charts(run), _DISTRIBUTION_NOTE),
        _timelines(timelines(run)),
        Section("repeat", "How to repeat it", "".join(_how_to_repeat(each) for each in runs)),
    ]
    return [section for section in found if section.body]


def _observations(run: SweepRun) -> list[str]:
    """Without the doubts of single points, which stand above."""
    reasons = set() if run.summary.validity is None else {f"{reason}." for reason in run.summary.validity.reasons}
    return [line for line in observations(run.summary) if line not in reasons]


def _workload(run: SweepRun, runs: Sequence[SweepRun]) -> list[Section]:
    """Media and speech, turns, passes: what the run has of them."""
    found = [
        Section(title.lower().replace(" ", "-"), title, table(grid) + note(text))
        for title, text, grid in workload_tables(run.summary)
    ]
    if cards := media_cards(runs):
        found.append(Section("listen", "Sent and said", cards))
    return found


def _warnings(runs: Sequence[SweepRun]) -> str:
    found = ""
    for run in runs:
        verdict = run.summary.verdict
        if run.summary.partial or verdict.exit_code != 0:
            kind = "Partial" if run.summary.partial else "Not well"
            found += warning(f"{kind}: {run.summary.run}: {verdict.reason or verdict.status}")
        found += "".join(map(warning, _doubts(run)))
    return found


def _doubts(run: SweepRun) -> Iterable[str]:
    """Points of which the client itself says that they should not be believed."""
    for point in run.summary.points:
        if point.validity is not None and point.validity.verdict != "valid":
            reasons = "; ".join(point.validity.reasons)
            yield f"{point.backend} {point.load_name} is {point.validity.verdict}: {reasons}"


def _cards(run: SweepRun) -> str:
    backends = {backend.name: backend for backend in run.summary.backends}
    cards = (
        _card(i, name, backends[points[0].backend], points)
        for i, (name, points) in enumerate(curves(run.summary).items())
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(system: int, title: str, backend: Backend, points: Sequence[Point]) -> str:
    fastest = max(points, key=lambda point: point.output_tokens_per_s or 0.0)
    failed, requests = sum(point.failed for point in points), sum(point.requests for point in points)
    figures = (
        ("most output tokens/s", number(fastest.output_tokens_per_s), f"at {load_name(fastest)}"),
        (f"TTFT p50 at {load_name(points[0])}", number(points[0].ttft_ms.p50), "ms"),
        (f"TPOT at {load_name(points[0])}", number(points[0].tpot_ms.mean), "ms"),
        ("failed requests", f"{failed}", f"of {requests}, {percent(failed / requests)}" if requests else "of 0"),
    )
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value} <small>{escape(unit)}</small></dd></div>"
        for name, value, unit in figures
    )
    name = f'<div class="name"><span class="swatch s{system % NUM_COLOURS}"></span>{escape(title)}</div>'
    model = f'<div class="model">{escape(backend.model or backend.url)}</div>'
    return f'<div class="card">{name}{model}<dl class="figures">{shown}</dl></div>'


def _charts(name: str, title: str, charts: Sequence[Chart], text: str = "") -> Section:
    shown = "".join(
        f'<div class="card"><h3>{escape(chart.title)}</h3>{_legend(chart)}{chart_svg(chart)}</div>' for chart in charts
    )
    return Section(name, title, f'<div class="charts">{shown}</div>{note(text) if text else ""}' if shown else "")


def _legend(chart: Chart) -> str:
    return f'<div class="legend">{"".join(map(_legend_entry, chart.lines))}</div>'


def _legend_entry(line: Line) -> str:
    dashed = " dashed" if line.dashed else ""
    return f'<span><i class="s{line.system % NUM_COLOURS}{dashed}"></i>{escape(line.name)}</span>'


def _timelines(found: Sequence[Timeline]) -> Section:
    shown = "".join(
        f'<div class="card wide"><h3>{escape(each.title)}{" (the first slots)" if each.is_cut else ""}</h3>'
        f"{timeline_svg(each)}</div>"
        for each in found
    )
    return Section("timeline", "Timeline", shown + note(_TIMELINE_NOTE) if shown else "")


def _how_to_repeat(run: SweepRun) -> str:
    return f"<pre>{escape(command_line(run.summary.command))}</pre>{bullet_list(facts(run.summary, run.manifest))}"
