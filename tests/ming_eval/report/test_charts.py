"""What the charts show of points and requests made by hand."""

from __future__ import annotations

import pytest

from ming_eval.report.charts import distribution_charts, load_charts, timelines
from ming_eval.report.overlay import SweepRun
from ming_eval.report.svg import chart_svg, timeline_svg
from ming_eval.results import Distribution, Point
from ming_eval.types import Failure, RequestRecord
from tests.ming_eval.factories import make_backend, make_manifest, make_plan, make_point, make_record, make_summary


def sweep(points: list[Point], records: list[RequestRecord]) -> SweepRun:
    names = dict.fromkeys(point.backend for point in points)
    manifest = make_manifest(make_plan(), *(make_backend(name) for name in names))
    return SweepRun(manifest, make_summary(*points), records)


def test_interactivity_is_tokens_of_one_user_against_tokens_of_all() -> None:
    """TPOT 20 ms is 50 tokens/s for one user."""
    points = [
        make_point(1, 50.0, tpot_ms=Distribution(mean=20.0)),
        make_point(4, 160.0, tpot_ms=Distribution(mean=25.0)),
    ]
    (chart,) = [chart for chart in load_charts(sweep(points, [])) if chart.id == "interactivity"]
    (line,) = chart.lines
    assert line.points == ((50.0, 50.0), (40.0, 160.0))
    assert [mark.label for mark in line.marks] == ["c=1", "c=4"]


def test_latency_has_a_line_per_system_and_percentile() -> None:
    points = [make_point(1, backend="a"), make_point(2, backend="a"), make_point(1, backend="b")]
    (chart,) = [chart for chart in load_charts(sweep(points, [])) if chart.id == "load-ttft"]
    assert [(line.system, line.name, line.dashed) for line in chart.lines] == [
        (0, "a p50", False),
        (0, "a p99", True),
        (1, "b p50", False),
        (1, "b p99", True),
    ]
    assert chart.lines[0].points == ((1.0, 100.0), (2.0, 100.0))


def test_points_without_a_figure_leave_no_line() -> None:
    points = [make_point(1, None, tpot_ms=Distribution())]
    assert {chart.id for chart in load_charts(sweep(points, []))} == {"load-requests", "load-ttft", "load-e2e"}


def test_distributions_hold_good_requests_of_their_load() -> None:
    """TTFT 100, 200, 300 ms; the failed one and the warm-up count nowhere."""
    slow = [make_record(id=f"c1-{i}", first_output_s=0.1 * (i + 1)) for i in range(3)]
    others = [make_record(id="c1-3", failure=Failure.RESET), make_record(id="w", warmup=True, first_output_s=9.0)]
    charts = {chart.id: chart for chart in distribution_charts(sweep([make_point(1)], [*slow, *others]))}
    (line,) = charts["ttft-c=1"].lines
    assert [x for x, _ in line.points] == pytest.approx([100.0, 200.0, 300.0])
    assert [share for _, share in line.points] == [0.0, 0.5, 1.0]
    assert line.marks[0].tip == "a: p50 200 ms of 3"


def test_distributions_of_many_loads_show_the_ends_and_some_between() -> None:
    loads = [2**i for i in range(8)]
    records = [make_record(id=f"c{c}-{i}", concurrency=c) for c in loads for i in range(2)]
    charts = distribution_charts(sweep([make_point(c) for c in loads], records))
    assert [chart.id for chart in charts if chart.id.startswith("ttft")] == [
        "ttft-c=1",
        "ttft-c=4",
        "ttft-c=32",
        "ttft-c=128",
    ]


def test_timeline_shows_the_highest_load_slot_by_slot() -> None:
    records = [
        make_record(id="c2-0", concurrency=2, slot=0, sent_s=5.0),
        make_record(id="c2-1", concurrency=2, slot=1, sent_s=5.5, failure=Failure.RESET, done_s=6.0),
        make_record(id="c1-0", concurrency=1, slot=0, sent_s=0.0),
    ]
    (timeline,) = timelines(sweep([make_point(1), make_point(2)], records))
    assert (timeline.title, timeline.num_rows, timeline.is_cut) == ("a, c=2", 2, False)
    first, second = timeline.bars
    assert (first.row, first.start_s, first.first_s, first.end_s) == pytest.approx((0, 0.0, 0.1, 0.16))
    assert (second.row, second.start_s, second.end_s, second.failed) == (1, 0.5, 1.0, True)
    assert second.tip == "c2-1: reset after 0.500 s"


def test_names_cannot_break_out_of_the_drawing() -> None:
    hostile = '"><script>alert(1)</script>'
    points = [make_point(1, backend=hostile), make_point(2, backend=hostile)]
    records = [make_record(id=hostile, backend=hostile, concurrency=2)]
    run = sweep(points, records)
    drawn = "".join([*map(chart_svg, load_charts(run)), *map(timeline_svg, timelines(run))])
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn
