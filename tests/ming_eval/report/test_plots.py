"""PNG plots where matplotlib is installed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ming_eval.report.overlay import SweepRun
from ming_eval.report.plots import can_plot, write_plots
from tests.ming_eval.factories import make_manifest, make_plan, make_point, make_record, make_summary

pytestmark = pytest.mark.skipif(not can_plot(), reason="matplotlib is not installed (the `report` extra)")


@pytest.mark.slow
def test_every_chart_becomes_a_picture(tmp_path: Path) -> None:
    points = [make_point(1, 100.0), make_point(2, 180.0)]
    records = [
        make_record(id=f"c{c}-{i}", concurrency=c, first_output_s=0.1 + i / 50) for c in (1, 2) for i in range(4)
    ]
    paths = write_plots([SweepRun(make_manifest(make_plan()), make_summary(*points), records)], tmp_path / "plots")
    assert {path.stem for path in paths} == {
        "load-throughput",
        "load-requests",
        "load-ttft",
        "load-tpot",
        "load-e2e",
        "interactivity",
        "ttft-c1",
        "ttft-c2",
        "itl-c1",
        "itl-c2",
        "timeline-0",
    }
    for path in paths:
        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG")
        assert width > 800
        assert height > 150
