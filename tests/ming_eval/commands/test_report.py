"""`ming-eval report` on folders written by hand: tables, page, plots, comma-separated values."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner, Result

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.cli import app
from ming_eval.report import plots
from ming_eval.results import Verdict
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.types import Reply
from tests.ming_eval.factories import (
    make_backend,
    make_manifest,
    make_plan,
    make_point,
    make_record,
    make_summary,
)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def store(out: Path, name: str, scale: float = 1.0) -> Path:
    """A finished run of two points, three requests each."""
    folder = out / f"20260615T101500Z-sweep-{name}"
    folder.mkdir(parents=True)
    manifest = replace(make_manifest(make_plan(concurrencies=(1, 2)), make_backend(name)), run=folder.name)
    manifests.write(replace(manifest, finished=manifest.started), folder)
    points = (make_point(1, 100 * scale, backend=name), make_point(2, 1234 * scale, backend=name))
    results.write(make_summary(*points, run=folder.name), folder / "summary.json")
    with RequestLog(folder, Redactor()) as log:
        for concurrency in (1, 2):
            for index in range(3):
                log.add(Reply(make_record(id=f"c{concurrency}-{index}", backend=name, concurrency=concurrency), "text"))
    return folder


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here; one test draws."""
    monkeypatch.setattr(plots, "can_plot", lambda: False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return store(tmp_path, "a")


def test_a_finished_run_is_printed_its_page_goes_beside_it_and_its_files_stay(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.glob("*.*")}
    result = invoke("report", run.name, "--out", run.parent)
    assert result.exit_code == 0, result.stderr
    assert "c=2 gives 12.34 x the tokens per second of c=1" in result.stdout
    assert result.stdout.endswith(f"{run / 'report.html'}\n")
    after = {path.name: path.read_bytes() for path in run.glob("*.*")}
    assert after.keys() - before.keys() == {"report.html"}
    assert before.items() <= after.items()
    assert "<h2>Load curves</h2>" in (run / "report.html").read_text()


def test_an_interrupted_run_is_summed_up_again_and_keeps_its_verdict(run: Path) -> None:
    stored = replace(make_summary(), partial=True, verdict=Verdict("interrupted", 130, "interrupted before the end"))
    results.write(stored, run / "summary.json")
    result = invoke("report", run)
    assert result.exit_code == 0, result.stderr
    summary = results.read(run)
    assert (summary.requests, summary.partial, summary.verdict) == (6, True, stored.verdict)
    assert "| a | 1* | 3 | 0 |" in (run / "summary.md").read_text()
    assert "Partial: " in (run / "report.html").read_text()


def test_several_runs_share_a_page_in_a_folder_of_their_own(run: Path) -> None:
    other = store(run.parent, "b", 2.0)
    result = invoke("report", run, other, "--out", run.parent)
    assert result.exit_code == 0, result.stderr
    (page,) = run.parent.glob("*-report-a-b/report.html")
    text = page.read_text()
    assert "<h2>Comparison</h2>" in text
    assert text.count('<div class="card"><div class="name">') == 2
    assert not (run / "report.html").exists()
    assert page.parent.name not in invoke("runs", "--out", run.parent).stdout  # a page is no run


def test_runs_that_do_not_compare_are_still_shown(run: Path) -> None:
    other = store(run.parent, "b")
    manifest = manifests.read(other)
    manifests.write(replace(manifest, settings={**manifest.settings, "seed": 9}), other)
    result = invoke("report", run, other, "--to", run.parent / "page")
    assert result.exit_code == 0, result.stderr
    assert "seed: 0 against 9" in (run.parent / "page" / "report.html").read_text()


def test_points_as_comma_separated_values(run: Path) -> None:
    result = invoke("report", run, "--csv", run.parent / "points.csv")
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO((run.parent / "points.csv").read_text())))
    assert [(row["concurrency"], float(row["output_tokens_per_s"])) for row in rows] == [("1", 100), ("2", 1234)]
    to_stdout = invoke("report", run, "--csv", "-")
    assert to_stdout.stdout == (run.parent / "points.csv").read_text()
    assert "backend  c  requests" in to_stdout.stderr


def test_summary_as_json(run: Path) -> None:
    assert json.loads(invoke("report", run, "--json", "-").stdout)["run"] == run.name
    other = store(run.parent, "b")
    both = json.loads(invoke("report", run, other, "--to", run.parent / "page", "--json", "-").stdout)
    assert [summary["run"] for summary in both] == [run.name, other.name]


def test_a_run_named_twice_is_shown_once(run: Path) -> None:
    assert json.loads(invoke("report", run, run.name, "--out", run.parent, "--json", "-").stdout)["run"] == run.name


def test_a_copy_of_a_run_beside_it_is_refused(run: Path) -> None:
    copy = copytree(run, run.parent / "copy")
    result = invoke("report", run, copy)
    assert (result.exit_code, f"copies of one run, {run.name}" in result.stderr) == (2, True)


def test_two_things_on_standard_output_are_exit_code_2(run: Path) -> None:
    assert invoke("report", run, "--json", "-", "--csv", "-").exit_code == 2


def test_without_matplotlib_the_page_is_written_and_the_way_to_plots_said(run: Path) -> None:
    result = invoke("report", run)
    assert result.exit_code == 0
    assert "pip install 'ming-eval[report]'" in result.stderr
    assert (run / "report.html").exists()
    assert not (run / "plots").exists()


@pytest.mark.slow
@pytest.mark.skipif(not plots.can_plot(), reason="matplotlib is not installed (the `report` extra)")
def test_plots_go_beside_the_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "can_plot", lambda: True)
    invoke("report", run)
    assert (run / "plots" / "load-throughput.png").read_bytes().startswith(b"\x89PNG")


def test_no_such_run_is_exit_code_4(tmp_path: Path) -> None:
    result = invoke("report", "nope", "--out", tmp_path)
    assert result.exit_code == 4
    assert "'nope'" in result.stderr


def test_a_newer_format_is_exit_code_4(run: Path) -> None:
    (run / "summary.json").write_text('{"format": 99}')
    result = invoke("report", run)
    assert result.exit_code == 4
    assert "format 99" in result.stderr
