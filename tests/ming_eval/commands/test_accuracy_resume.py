"""Accuracy runs that were interrupted or killed, and what `--resume` makes of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ming_eval.commands.accuracy_turns import server_identity
from ming_eval.targets import Target
from tests import fake_engine
from tests.fakes import FakeServer
from tests.ming_eval.commands.accuracy_runs import (
    GOLD,
    ROOT,
    accuracy,
    all_right,
    invoke,
    num_answers,
    prepare,
    read,
    read_lines,
    run_folder,
)
from tests.ming_eval.evals.scripted import Act, Fail, Say, ScriptedServer

pytestmark = pytest.mark.slow  # real processes, real files


def test_ctrl_c_keeps_what_there_is_and_resume_sends_the_rest(tmp_path: Path) -> None:
    words = prepare(tmp_path, 60)
    slow = {f"question {i}": (Say(GOLD[i % 4], delay_s=0.05),) for i in range(60)}
    with ScriptedServer.in_thread(slow) as server:
        options = ["--backend", f"s={server.url}", "--out", str(tmp_path / "results"), "--concurrency", "2"]
        code = "from ming_eval.cli import main; main()"
        child = subprocess.Popen([sys.executable, "-c", code, "accuracy", *words, *options], cwd=ROOT)
        while server.num_chats < 20:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 130
        folder = run_folder(tmp_path)
        summary = read(folder / "summary.json")
        (suite,) = summary["suites"]
        assert (summary["partial"], summary["verdict"]["status"]) == (True, "interrupted")
        assert suite["correct"] + suite["skipped"] == suite["planned"] == 60
        assert "**Partial: " in (folder / "summary.md").read_text()

        sent = server.num_chats
        result = invoke("accuracy", "--resume", str(folder), "--out", str(tmp_path / "results"))
        assert result.exit_code == 0, result.stderr
        assert server.num_chats - sent == 60 - suite["correct"]
    (again,) = read(folder / "summary.json")["suites"]
    assert (again["correct"], again["reused"], again["skipped"]) == (60, suite["correct"], 0)
    assert run_folder(tmp_path) == folder


def test_a_complete_run_keeps_its_time_where_nothing_is_sent(tmp_path: Path) -> None:
    words = prepare(tmp_path)

    def resumed(*words: str) -> Any:
        result = invoke("accuracy", "--resume", str(run_folder(tmp_path)), *words)
        assert result.exit_code == 0, result.stderr
        return read(run_folder(tmp_path) / "summary.json")["suites"]

    with ScriptedServer.in_thread(all_right()) as server, ScriptedServer.in_thread(all_right()) as other:
        accuracy(tmp_path, server, *words)
        before = read(run_folder(tmp_path) / "summary.json")["suites"]
        assert before[0]["requests_per_s"] > 0
        for workers in ("1", "2"):
            assert resumed("--workers", workers) == before
        (elsewhere,) = resumed("--backend", f"s={other.url}")
        assert (elsewhere["requests"], elsewhere["reused"], other.num_chats) == (20, 0, 20)
        (back,) = resumed("--backend", f"s={server.url}")  # the last summary tells how long the other server took
        assert (back["requests"], back["reused"], back["wall_s"], back["requests_per_s"]) == (0, 20, None, None)
        assert server.num_chats == 20


@pytest.mark.parametrize("concurrency", ["1", "64"])
def test_a_killed_run_goes_on_to_the_known_score(tmp_path: Path, concurrency: str) -> None:
    """70 right, 10 wrong, 10 right in a sentence, 5 errors, 5 without content of 100; killed in the middle."""
    words = prepare(tmp_path, 100)
    acts: dict[str, Sequence[Act]] = {}
    for i in range(100):
        right = GOLD[i % 4]
        texts = {0: None, 1: f"So the correct option is {right}.", 2: GOLD[(i + 1) % 4]}
        said = Say(texts.get(i % 20 // 2, right) if i % 20 < 6 else right, delay_s=0.01)
        acts[f"question {i}"] = (Fail(400),) if i % 20 == 0 else (said,)
    with ScriptedServer.in_thread(acts) as server:
        options = ["--backend", f"s={server.url}", "--out", str(tmp_path / "results"), "--concurrency", concurrency]
        code = "from ming_eval.cli import main; main()"
        child = subprocess.Popen([sys.executable, "-c", code, "accuracy", *words, *options], cwd=ROOT)
        while (done := num_answers(tmp_path)) < 20:
            assert child.poll() is None
            time.sleep(0.005)
        child.kill()
        child.wait()
        result = invoke("accuracy", "--resume", str(run_folder(tmp_path)))
    assert result.exit_code == 0, result.stderr
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    outcomes = [suite[key] for key in ("correct", "wrong", "unparsed", "error", "skipped")]
    assert outcomes == [80, 10, 5, 5, 0]
    assert suite["accuracy"] == 0.8
    assert suite["parse_rate"] == 90 / 95
    assert suite["reused"] >= done - 10  # errors and replies without content are asked again
    assert suite["rules"] == {"bare": 80, "marked": 10}


def test_another_protocol_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as server:
        accuracy(tmp_path, server, *words)
        run = str(run_folder(tmp_path))
        for command in (["sweep", "--resume"], ["rerun"]):
            result = invoke(*command, run)
            assert (result.exit_code, "`ming-eval accuracy` made it" in result.stderr) == (4, True), result.stderr
        for change, message in ((["--protocol", "cot"], "another protocol"), (["--limit", "3"], "other items")):
            result = invoke("accuracy", "--resume", run, *change)
            assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
        assert server.num_chats == 20


def test_other_suites_in_the_same_folder_are_refused_by_name(tmp_path: Path) -> None:
    with ScriptedServer.in_thread(all_right()) as server:
        accuracy(tmp_path, server, *prepare(tmp_path))
        result = invoke("accuracy", "mmlu", "--resume", str(run_folder(tmp_path)))
    assert (result.exit_code, f"asked {tmp_path / 'fruit'}: name the same suites" in result.stderr) == (2, True)


def test_another_model_in_the_same_folder_reuses_nothing(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right(), models=("scripted", "other")) as server:
        accuracy(tmp_path, server, *words)
        run = str(run_folder(tmp_path))
        same = invoke("accuracy", "--resume", run)
        assert (same.exit_code, server.num_chats) == (0, 20)
        other = accuracy(tmp_path, server, "--resume", run, "--model", "other")
        assert (other.exit_code, server.num_chats) == (0, 40)
    summary = read(run_folder(tmp_path) / "summary.json")
    assert (summary["backends"][0]["model"], summary["suites"][0]["model"]) == ("other", "other")
    assert len(read_lines(run_folder(tmp_path) / "responses.jsonl")) == 40


def test_a_run_is_repeated_at_the_server_that_it_went_on_with(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    config = tmp_path / "other.toml"
    with ScriptedServer.in_thread(all_right()) as server, ScriptedServer.in_thread(all_right()) as other:
        accuracy(tmp_path, server, *words)
        config.write_text(f'backend = ["s={other.url}"]\n')
        for named in (["--config", str(config)], ["--backend", f"s={server.url}"], ["--backend", f"s={other.url}"]):
            result = invoke("accuracy", "--resume", str(run_folder(tmp_path)), *named)
            assert result.exit_code == 0, result.stderr
            (at,) = (word for word in read(run_folder(tmp_path) / "summary.json")["command"] if "s=http" in word)
            assert (other.url if named[-1] != f"s={server.url}" else server.url) in at
        command = f"--backend s={other.url}\n"
        assert command in (run_folder(tmp_path) / "summary.md").read_text()
        assert read(run_folder(tmp_path) / "manifest.json")["command"][-2:] == ["--backend", f"s={other.url}"]


def test_a_run_that_never_asked_anything_can_be_resumed(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with (
        ScriptedServer.in_thread(all_right()) as one,
        ScriptedServer.in_thread(all_right(), models=("other", "scripted")) as two,
    ):
        servers = ("--backend", f"s={one.url}", "--backend", f"t={two.url}")
        refused = invoke("accuracy", *words, *servers, "--shard", "--out", str(tmp_path / "results"))
        assert (refused.exit_code, refused.stdout, refused.stderr.count("s serves scripted")) == (2, "", 1)
        result = invoke("accuracy", "--resume", str(run_folder(tmp_path)), *servers, "--model", "scripted")
    assert result.exit_code == 0, result.stderr
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert (suite["correct"], suite["requests"]) == (20, 20)


@pytest.mark.parametrize(("checkpoint", "num_replies"), [("one", 6), ("other", 12)])
def test_a_run_on_the_bundled_engine_goes_on_where_the_weights_are_the_same(
    tmp_path: Path, checkpoint: str, num_replies: int
) -> None:
    fake_engine.install(tmp_path)
    words = prepare(tmp_path, 6)

    def run(digest: str, *more: str) -> None:
        environment = os.environ | {"FAKE_CHECKPOINT": digest, "PYTHONPATH": str(ROOT)}
        command = [
            sys.executable,
            "-c",
            "from ming_eval.cli import main; main()",
            "accuracy",
            "--out",
            "results",
            *more,
        ]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    run("one", *words)
    run(checkpoint, "--resume", run_folder(tmp_path).name)
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert (suite["planned"], suite["error"]) == (6, 0)
    assert num_answers(tmp_path) == num_replies


def test_a_launched_engine_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    """Its port is another one each time; a server elsewhere is known by its address, whatever its card says."""
    cards = [{"id": "m", "checkpoint_digest": "abc"}, {"id": "other"}]
    with FakeServer.in_thread(models_body={"object": "list", "data": cards}) as server:
        named, other = (Target.at(server.url, model=model) for model in ("m", "other"))
        identities = [
            asyncio.run(server_identity(named, is_launched=True)).identity,
            asyncio.run(server_identity(named, is_launched=False)).identity,
            asyncio.run(server_identity(other, is_launched=True)).identity,
        ]
    assert identities == ["checkpoint:abc", named.base_url, named.base_url]
