"""`ming-eval runs` and `ming-eval report` on folders written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.cli import app
from ming_eval.results import Verdict
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.types import Reply
from tests.ming_eval.factories import make_manifest, make_plan, make_point, make_record, make_summary


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two points."""
    folder = tmp_path / "20260615T101500Z-sweep-a"
    folder.mkdir()
    manifests.write(make_manifest(make_plan()), folder)
    results.write(make_summary(make_point(1, 100), make_point(2, 1234)), folder / "summary.json")
    return folder


def test_runs_are_listed_with_their_best_figure(run: Path) -> None:
    result = invoke("runs", "--out", str(run.parent))
    (row,) = result.stdout.splitlines()[2:]
    assert row.split() == [run.name, "complete", "2", "200", "0", "1234"]


def test_a_broken_run_does_not_hide_the_others(run: Path) -> None:
    broken = run.parent / "20260101T000000Z-sweep-a"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    result = invoke("runs", "--out", str(run.parent))
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()[2:]] == [
        [broken.name, "unreadable"],
        [run.name, "complete"],
    ]


def test_runs_as_json(run: Path) -> None:
    result = invoke("runs", "--out", str(run.parent), "--json", "-")
    (row,) = json.loads(result.stdout)
    assert (row["run"], row["backends"], row["best_output_tokens_per_s"]) == (run.name, ["a"], 1234)


def test_no_runs(tmp_path: Path) -> None:
    result = invoke("runs", "--out", str(tmp_path / "nothing"))
    assert (result.exit_code, result.stdout) == (0, f"no runs in {tmp_path / 'nothing'}\n")


def test_report_prints_a_finished_run_and_leaves_it_alone(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    result = invoke("report", run.name, "--out", str(run.parent))
    assert result.exit_code == 0
    assert "c=2 gives 12.34 x the tokens per second of c=1" in result.stdout
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_report_sums_an_interrupted_run_up_again_and_keeps_its_verdict(run: Path) -> None:
    with RequestLog(run, Redactor()) as log:
        for index in range(3):
            log.add(Reply(make_record(index=index, sent_s=float(index)), "text"))
    stored = replace(make_summary(), partial=True, verdict=Verdict("interrupted", 130, "interrupted before the end"))
    results.write(stored, run / "summary.json")
    result = invoke("report", str(run))
    assert result.exit_code == 0
    summary = results.read(run)
    assert (summary.requests, summary.partial, summary.verdict) == (3, True, stored.verdict)
    assert "| a | 1 | 3 | 0 |" in (run / "summary.md").read_text()


def test_report_of_no_run_is_exit_code_4(tmp_path: Path) -> None:
    result = invoke("report", "nope", "--out", str(tmp_path))
    assert result.exit_code == 4
    assert "'nope'" in result.stderr


def test_report_of_a_newer_format_is_exit_code_4(run: Path) -> None:
    (run / "summary.json").write_text('{"format": 99}')
    result = invoke("report", str(run))
    assert result.exit_code == 4
    assert "format 99" in result.stderr
