"""Sweeps that start the bundled engine themselves, and what they say of one that dies."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ming_eval.cli import app
from tests import fake_engine
from tests.ming_eval.commands.sweeps import run_folder, start, summary_of
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files


def test_without_a_backend_the_bundled_engine_is_started_measured_and_stopped(tmp_path: Path) -> None:
    fake_engine.install(tmp_path)
    options = ("--concurrency", "1..2", "--requests", "2", "--max-tokens", "3", "--model", "./weights")
    process = start(tmp_path, *options, "--", "--tp", "2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    arguments = json.loads((tmp_path / "engine-args.json").read_text())
    assert arguments[:4] == ["--model", "./weights", "--tp", "2"]
    summary = summary_of(tmp_path / "out")
    (backend,) = summary["backends"]
    assert (backend["name"], backend["launched"], backend["dialect"], backend["model"]) == (
        "ming",
        True,
        "ming",
        "tiny",
    )
    assert summary["failed"] == 0
    folder = run_folder(tmp_path / "out")
    assert folder.name.endswith("-sweep-ming")
    assert "fake engine starts" in (folder / "engine.log").read_text()
    assert not _is_alive(tmp_path)


def test_an_engine_that_does_not_start_is_exit_code_3_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "dies")
    fake_engine.install(tmp_path)
    process = start(tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "no memory left for the weights" in err
    listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path / "out"), "--status", "failed"])
    assert run_folder(tmp_path / "out").name in listed.stdout
    verdict = summary_of(tmp_path / "out")["verdict"]
    assert verdict["status"] == "failed"
    assert verdict["reason"].endswith("no memory left for the weights")


def test_an_engine_that_refuses_is_exit_code_2_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "refuses")
    fake_engine.install(tmp_path)
    process = start(tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == "ming-eval: the bundled engine does not start: --model nowhere: there is no such folder\n"
    folder = run_folder(tmp_path / "out")
    assert "there is no such folder" in (folder / "summary.md").read_text()
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0


@pytest.mark.slow
def test_a_run_whose_engine_did_not_start_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "dies")
    fake_engine.install(tmp_path)
    start(tmp_path, "--concurrency", "1", "--requests", "2").communicate(timeout=120)
    monkeypatch.delenv("FAKE_ENGINE")
    process = start(tmp_path, "--resume", run_folder(tmp_path / "out").name)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = summary_of(tmp_path / "out")
    assert (summary["verdict"]["status"], summary["requests"]) == ("complete", 2)
    assert [backend["model"] for backend in summary["backends"]] == ["tiny"]


def test_an_engine_that_dies_in_mid_sweep_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "falls")
    fake_engine.install(tmp_path)
    process = start(tmp_path, "--concurrency", "1", "--requests", "1000", "--max-tokens", "3")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "the bundled engine died (killed by SIGKILL)" in err
    assert "\n    CUDA error: out of luck\n" in err
    verdict = summary_of(tmp_path / "out")["verdict"]
    assert verdict["status"] == "aborted"
    assert verdict["reason"].endswith("ends with: CUDA error: out of luck")
    assert "CUDA error: out of luck" in out


def test_ctrl_c_while_the_engine_starts_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "slow")
    fake_engine.install(tmp_path)
    process = start(tmp_path)
    wait_for(lambda: (tmp_path / "engine-pid").exists())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "nothing was measured" in err
    assert out == ""
    assert summary_of(tmp_path / "out")["verdict"]["status"] == "interrupted"
    assert not _is_alive(tmp_path)


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_and_takes_the_engine_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not react to SIGTERM; waiting for it would take longer than this test gives it."""
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    fake_engine.install(tmp_path)
    process = start(tmp_path, "--requests", "100000")
    wait_for(lambda: len(list((tmp_path / "out").glob("*/requests.jsonl"))) == 1)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: (tmp_path / "engine-signals").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=8)
    assert process.returncode == 130
    assert not _is_alive(tmp_path)


def _is_alive(folder: Path) -> bool:
    try:
        os.kill(int((folder / "engine-pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True
