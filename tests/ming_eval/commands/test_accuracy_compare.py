"""Stored accuracy runs beside each other: `compare`, its gates, and the page of two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ming_eval.commands.accuracy_runs import (
    accuracy,
    all_right,
    invoke,
    prepare,
    read,
    run_folder,
    some_wrong,
)
from tests.ming_eval.evals.scripted import ScriptedServer

pytestmark = pytest.mark.slow  # real processes, real files


def two_runs(folder: Path) -> tuple[Path, Path, list[str]]:
    """A run with everything right and one with every fifth reply wrong, of 40; the words that name suite and data."""
    words = prepare(folder, 40)
    with ScriptedServer.in_thread(all_right(40)) as server:
        accuracy(folder, server, *words, name="old")
    with ScriptedServer.in_thread(some_wrong(40)) as server:
        accuracy(folder, server, *words, name="new")
    old, new = sorted((folder / "results").iterdir(), key=lambda path: path.name.endswith("new"))
    return old, new, words


def test_two_stored_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    old, new, words = two_runs(tmp_path)
    result = invoke("compare", str(old), str(new), "--json", str(tmp_path / "c.json"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("new against old on fruit: accuracy 100.0 % -> 80.0 %, -20.0 points")
    assert "exact McNemar, p 0.0078): worse." in result.stdout
    (found,) = read(tmp_path / "c.json")["comparisons"]
    assert found["cells"] == {"both": 32, "only_first": 8, "only_second": 0, "neither": 0}
    assert found["mcnemar_p"] == 2 / 2**8
    assert (found["same_answers"], found["verdict"]) == (0.8, "worse")

    page = invoke("report", str(old), str(new), "--to", str(tmp_path / "page"))
    assert page.exit_code == 0, page.stderr
    assert "new against old on fruit" in (tmp_path / "page" / "report.html").read_text()

    with ScriptedServer.in_thread(all_right(40)) as server:
        accuracy(tmp_path, server, *words, "--protocol", "cot", name="other")
    other = next((tmp_path / "results").glob("*-other"))
    refused = invoke("compare", str(old), str(other))
    assert refused.exit_code == 4
    assert "were not asked fruit alike (protocol 'letter' and 'cot'" in refused.stderr
    assert invoke("compare", str(old), str(other), "--force").exit_code == 0


def test_a_comparison_is_a_gate(tmp_path: Path) -> None:
    old, new, _ = two_runs(tmp_path)
    failed = invoke("compare", str(old), str(new), "--fail-on", "accuracy<-2pt")
    assert failed.exit_code == 1
    assert "accuracy<-2pt: failed by new at fruit (1.00 -> 0.800)" in failed.stdout
    assert invoke("compare", str(new), str(old), "--fail-on", "fruit:accuracy<-2pt").exit_code == 0
    assert invoke("compare", str(old), str(new), "--fail-on", "wer>+1pt").exit_code == 4
    assert invoke("compare", str(old), str(new), "--agreement").exit_code == 2
    assert invoke("compare", str(old)).exit_code == 2


def test_backends_of_one_run_are_compared_in_its_summary(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as one, ScriptedServer.in_thread(some_wrong()) as other:
        accuracy(tmp_path, one, *words, "--backend", f"t={other.url}")
    text = (run_folder(tmp_path) / "summary.md").read_text()
    assert "## Comparison\n\n**t against s on fruit: accuracy 100.0 % -> 80.0 %" in text
