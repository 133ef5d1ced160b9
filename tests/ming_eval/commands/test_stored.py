"""`ming-eval runs` on folders written by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.cli import app
from ming_eval.report.runs_table import parse_since
from tests.ming_eval.factories import make_manifest, make_plan, make_point, make_summary


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


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (("--command", "sweep"), True),
        (("--command", "coverage"), False),
        (("--backend", "a"), True),
        (("--backend", "b"), False),
        (("--status", "complete"), True),
        (("--status", "killed"), False),
        (("--since", "2026-06-15"), True),
        (("--since", "2026-06-15T12:15+02:00"), True),
        (("--since", "2026-06-15T10:16"), False),
        (("--since", "1m", "--command", "sweep"), False),
    ],
)
def test_runs_are_filtered(run: Path, words: tuple[str, ...], listed: bool) -> None:
    """The run started on 15 June 2026 at 10:15 UTC."""
    result = invoke("runs", "--out", str(run.parent), *words)
    assert result.exit_code == 0, result.stderr
    assert (run.name in result.stdout) == listed
    assert listed or result.stdout == f"no such runs in {run.parent}\n"


def test_an_unreadable_run_meets_no_condition(run: Path) -> None:
    (run / "manifest.json").write_text("{")
    (run / "summary.json").unlink()
    assert run.name in invoke("runs", "--out", str(run.parent)).stdout
    assert run.name not in invoke("runs", "--out", str(run.parent), "--since", "2000-01-01").stdout


def test_an_age_counts_from_now() -> None:
    now = datetime(2026, 6, 15, 10, 0, tzinfo=UTC)
    assert parse_since("90m", now) == datetime(2026, 6, 15, 8, 30, tzinfo=UTC)
    assert parse_since("7d", now) == datetime(2026, 6, 8, 10, 0, tzinfo=UTC)


def test_a_time_without_meaning_is_exit_code_2(tmp_path: Path) -> None:
    result = invoke("runs", "--out", str(tmp_path), "--since", "yesterday")
    assert result.exit_code == 2
    assert "bad time 'yesterday'" in result.stderr
