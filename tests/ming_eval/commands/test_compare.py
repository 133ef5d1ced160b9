"""`ming-eval compare` on run folders, and the comparison that a sweep of two servers brings along."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.cli import app
from ming_eval.compare.system import System
from ming_eval.metrics.validity import assess
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.types import ClientHealth, Reply
from tests.fakes import FakeServer, Script
from tests.ming_eval.compare.simulation import World, simulate
from tests.ming_eval.factories import make_point, make_summary

WORLD = World(concurrencies=(1, 4), num_requests=32)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def store(system: System, folder: Path) -> Path:
    folder.mkdir(parents=True)
    manifests.write(replace(system.manifest, run=folder.name, finished=system.manifest.started), folder)
    with RequestLog(folder, Redactor()) as log:
        for record in system.records:
            log.add(Reply(record, "text"))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run, and the same with every request 10 % slower."""
    slow = simulate(WORLD, np.random.default_rng(0), slowdown=1.1)
    return store(simulate(WORLD, np.random.default_rng(0)), tmp_path / "old"), store(slow, tmp_path / "new")


def test_the_table_has_both_systems_ratio_and_verdict(runs: tuple[Path, Path]) -> None:
    result = invoke("compare", *runs)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(
        "a@new gives 0.909 x the output tokens/s of a@old over 2 points (95 %: 0.909 to 0.909)"
    )
    rows = [line.split() for line in result.stdout.splitlines() if "ttft_ms.p50" in line]
    assert [(row[0], row[4], row[-1]) for row in rows] == [("c=1", "1.100", "worse"), ("c=4", "1.100", "worse")]


def test_what_the_client_said_against_itself_stands_beside_the_verdict(runs: tuple[Path, Path]) -> None:
    """The same server twice on a busy machine: one came out 1.4 x as fast, which is no verdict on the server."""
    health = ClientHealth(
        wall_s=10.0,
        cpu_s=1.0,
        loop_lag_s=0.3,
        num_loop_samples=1000,
        receive_lag_s=0.0002,
        num_receive_stamps=500,
        clock_drift_s=0.0,
        gc_pause_max_s=0.0,
        gc_pauses_s=0.0,
    )
    validity = assess([], [health], requested=4, achieved=None, are_prompts_unique=True, keeps_connections=True)
    other = make_point(4, backend="other", validity=validity)
    alone = make_point(32, backend="a", validity=validity)  # a load of this run alone is in no figure
    results.write(make_summary(make_point(4, backend="a"), other, alone), runs[1] / "summary.json")
    assert "invalid" not in invoke("compare", *runs).stdout
    points = (make_point(4, backend="a", validity=validity), other, alone)
    results.write(make_summary(*points), runs[1] / "summary.json")
    result = invoke("compare", *runs)
    assert result.stdout.splitlines()[0].endswith("no verdict, since the client was invalid in a@new.")
    assert result.stdout.count("event-loop lag p99") == 1
    assert "- a@new c=4: event-loop lag p99 300 ms, above 20 ms" in result.stdout
    (found,) = json.loads(invoke("compare", *runs, "--json", "-").stdout)["comparisons"]
    assert (found["invalid"], found["verdict"]) == (["a@new"], None)
    believed, unbelieved = ({row["verdict"] for row in point["figures"]} for point in found["points"])
    assert "worse" in believed
    assert unbelieved == {None}


def test_runs_by_name(runs: tuple[Path, Path]) -> None:
    assert invoke("compare", "old", "new", "--out", runs[0].parent).exit_code == 0


def test_comparison_as_json(runs: tuple[Path, Path]) -> None:
    content = json.loads(invoke("compare", *runs, "--json", "-").stdout)
    (comparison,) = content["comparisons"]
    assert (comparison["first"], comparison["second"], comparison["verdict"]) == ("a@old", "a@new", "worse")
    assert comparison["throughput"]["ratio"] == pytest.approx(1 / 1.1)
    assert [point["concurrency"] for point in comparison["points"]] == [1, 4]
    assert content["crossings"] == []


def test_the_gate_is_exit_code_1(runs: tuple[Path, Path]) -> None:
    result = invoke("compare", *runs, "--fail-on", "ttft_ms.p99>+5%")
    assert result.exit_code == 1
    assert "ttft_ms.p99>+5%: failed by a@new at c=4" in result.stdout
    assert invoke("compare", *runs, "--fail-on", "ttft_ms.p99>+15%").exit_code == 0
    assert invoke("compare", *reversed(runs), "--fail-on", "ttft_ms.p99>+5%").exit_code == 0


def test_a_condition_without_meaning_is_exit_code_2(runs: tuple[Path, Path]) -> None:
    result = invoke("compare", *runs, "--fail-on", "ttft>+5%")
    assert result.exit_code == 2
    assert "unknown figure 'ttft'" in result.stderr


def test_unlike_runs_are_exit_code_4_unless_forced(runs: tuple[Path, Path]) -> None:
    manifest = manifests.read(runs[1])
    manifests.write(replace(manifest, settings={**manifest.settings, "seed": 7}), runs[1])
    result = invoke("compare", *runs)
    assert result.exit_code == 4
    assert "seed: 0 against 7" in result.stderr
    forced = invoke("compare", *runs, "--force")
    assert forced.exit_code == 0
    assert "- seed: 0 against 7 (forbids a comparison; forced)" in forced.stdout


def test_one_run_of_one_backend_is_exit_code_2(runs: tuple[Path, Path]) -> None:
    assert invoke("compare", runs[0]).exit_code == 2


@pytest.mark.slow
def test_a_sweep_of_two_servers_ends_with_their_comparison(tmp_path: Path) -> None:
    fast, slow = Script(first_s=0.01, gap_s=0.002), Script(first_s=0.01, gap_s=0.012)
    with FakeServer.in_thread(fast) as a, FakeServer.in_thread(slow) as b:
        backends = ("--backend", f"a={a.url}", "--backend", f"b={b.url}")
        load = ("--concurrency", "1,2", "--requests", "8", "--max-tokens", "8")
        result = invoke("sweep", *backends, *load, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "of a over 2 points" in result.stdout
    (folder,) = tmp_path.iterdir()
    text = (folder / "summary.md").read_text()
    assert "## Comparison" in text
    assert "(95 %: " in text
    (comparison,) = json.loads((folder / "comparison.json").read_text())
    assert (comparison["first"], comparison["second"]) == ("a", "b")
    assert comparison["throughput"]["high"] < 1
    if comparison["invalid"]:  # a machine that is too busy says so itself
        assert (comparison["verdict"], "no verdict, since the client was invalid" in text) == (None, True)
    else:
        assert (comparison["verdict"], ": slower" in text) == ("worse", True)
    again = invoke("compare", folder, "--json", "-")
    assert json.loads(again.stdout)["comparisons"] == [comparison]


def test_agreement_of_stored_answers(runs: tuple[Path, Path]) -> None:
    result = invoke("compare", *runs, "--agreement")
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[:4] for line in result.stdout.splitlines() if line.startswith("c=")]
    assert rows == [["c=1", "32", "32", "100"], ["c=4", "32", "32", "100"]]
    (agreement,) = json.loads(invoke("compare", *runs, "--agreement", "--json", "-").stdout)
    assert [point["identical"] for point in agreement["points"]] == [32, 32]
    assert invoke("compare", *runs, "--agreement", "--fail-on", "e2e_ms.p50>+5%").exit_code == 2
