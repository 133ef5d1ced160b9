"""`ming-eval accuracy --workers N`: several real processes answer one run, and it is the run that one makes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ming_eval.commands import accuracy_settings
from ming_eval.commands.accuracy_settings import ANSWER_WORKER
from ming_eval.evals.responses import read_responses
from ming_eval.load.links import Link
from ming_eval.load.remote import Remote
from tests.ming_eval.commands.accuracy_runs import accuracy, prepare, read, read_lines, run_folder
from tests.ming_eval.evals.builders import MCQ_SUITE, write_suite
from tests.ming_eval.evals.scripted import Act, Fail, Say, ScriptedServer
from tests.ming_eval.load.test_crew import FarLink
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files

ROOT = Path(__file__).parents[3]
GOLD = "ABCD"
COUNT = 60
# What depends on how quick a run was.
_OF_THE_RUN = {"wall_s", "requests_per_s", "latency_ms"}


@pytest.fixture(autouse=True)
def _own_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def mixed() -> Mapping[str, Sequence[Act]]:
    """Of every six: right, wrong, right in a sentence, nothing to read, right after a 429, an error."""
    return {f"question {i}": _act(i) for i in range(COUNT)}


def _act(i: int) -> Sequence[Act]:
    right, wrong = GOLD[i % 4], GOLD[(i + 1) % 4]
    kinds: list[Sequence[Act]] = [
        (Say(right),),
        (Say(wrong),),
        (Say(f"The answer is {right}."),),
        (Say("All of them are fruit."),),
        (Fail(429, "0"), Say(right)),
        (Fail(400),),
    ]
    return kinds[i % 6]


def figures(folder: Path) -> dict[str, Any]:
    """The suite's figures but those of the clock."""
    (suite,) = read(folder / "summary.json")["suites"]
    return {name: value for name, value in suite.items() if name not in _OF_THE_RUN}


def items(folder: Path) -> list[dict[str, Any]]:
    return [line | {"latency_s": 0, "response": ""} for line in read_lines(folder / "items.jsonl")]


_MAIN = "from ming_eval.cli import main; main()"
_FAR_MAIN = f"""
from ming_eval.commands import accuracy_crew, accuracy_settings
from tests.ming_eval.commands.test_accuracy_workers import far_links
accuracy_settings.find_links = lambda count, *_: far_links(count)
accuracy_crew.FETCH_S = 0.2
{_MAIN}
"""


def start(folder: Path, server: ScriptedServer, *words: str, code: str = _MAIN) -> subprocess.Popen[str]:
    options = ("--out", str(folder / "results"), "--backend", f"s={server.url}", *words)
    command = [sys.executable, "-c", code, "accuracy", *options]
    env = os.environ | {"TMPDIR": str(folder)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)


def far_links(count: int) -> list[Link]:
    """Workers that write to folders of their own, as those on other hosts do."""
    return [FarLink(Remote(ANSWER_WORKER)) for _ in range(count)]


@pytest.mark.parametrize("is_far", [False, True])
def test_three_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_far: bool) -> None:
    if is_far:
        monkeypatch.setattr(accuracy_settings, "find_links", lambda count, *_: far_links(count))
    words = (*prepare(tmp_path, COUNT), "--max-error-rate", "0.5", "--repeats", "2", "--concurrency", "7")
    with ScriptedServer.in_thread(mixed()) as server:
        alone = accuracy(tmp_path / "one", server, *words)
    with ScriptedServer.in_thread(mixed()) as server:
        shared = accuracy(tmp_path / "three", server, *words, "--workers", "3")
        assert server.max_running <= 7
    assert (alone.exit_code, shared.exit_code) == (0, 0), shared.stderr
    one, three = run_folder(tmp_path / "one"), run_folder(tmp_path / "three")
    expected = {"planned": 120, "correct": 60, "wrong": 20, "unparsed": 20, "error": 20, "accuracy": 0.5}
    found = figures(three)
    assert {name: found[name] for name in expected} == expected
    assert found["parse_rate"] == 0.8
    assert found == figures(one)
    assert items(three) == items(one)
    assert sorted(path.name for path in three.glob("*.jsonl")) == ["items.jsonl", "responses.jsonl"]
    assert "120/120 done" in shared.stderr


@pytest.mark.parametrize("code", [_MAIN, _FAR_MAIN], ids=["near", "far"])
def test_killed_and_gone_on_with_by_another_number_of_processes(tmp_path: Path, code: str) -> None:
    words = (*prepare(tmp_path, COUNT), "--max-error-rate", "0.5", "--concurrency", "4")
    with ScriptedServer.in_thread(mixed(), gate_after=20) as server:
        process = start(tmp_path, server, *words, "--workers", "2", code=code)
        wait_for(lambda: server.num_chats >= 20 + 4)
        folder = run_folder(tmp_path)
        wait_for(lambda: sum(each.failure is None for each in read_responses(folder).values()) >= 10)
        wait_for(lambda: len(list(folder.glob("responses.*.jsonl"))) == 2)  # of both, when both are far
        process.kill()
        process.communicate(timeout=120)
        parts = sorted(path.name for path in folder.glob("responses*"))
        assert parts == ["responses.0.jsonl", "responses.1.jsonl"]
        kept = read_responses(folder)
        before = dict(server.counts)
        server.gate_after = None
        resumed = accuracy(tmp_path, server, "--resume", folder.name, "--workers", "3", "--max-error-rate", "0.5")
        assert resumed.exit_code == 0, resumed.stderr
        final = [each for each in kept.values() if each.failure is None]
        for each in final:  # what was answered is not asked again
            question = f"question {each.id.removeprefix('q')}"
            assert server.counts[question] == before[question]
    (suite,) = read(folder / "summary.json")["suites"]
    counts = [suite[name] for name in ("planned", "correct", "wrong", "unparsed", "error", "reused")]
    assert counts == [60, 30, 10, 10, 10, len(final)]
    assert (suite["accuracy"], suite["parse_rate"]) == (0.5, 0.8)
    assert sorted(path.name for path in folder.glob("responses*")) == ["responses.jsonl"]


def test_a_worker_that_dies_ends_the_run_with_a_word_and_keeps_the_rest(tmp_path: Path) -> None:
    words = (*prepare(tmp_path, COUNT), "--concurrency", "4")
    with ScriptedServer.in_thread(mixed(), gate_after=20) as server:
        process = start(tmp_path, server, *words, "--workers", "2")
        wait_for(lambda: server.num_chats >= 20 + 4)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "ended by itself" in err
    summary = read(run_folder(tmp_path) / "summary.json")
    assert summary["verdict"]["status"] == "aborted"
    (suite,) = summary["suites"]
    assert suite["correct"] + suite["wrong"] + suite["unparsed"] + suite["error"] >= 10  # of 20 replies, some were 429


def test_a_dead_server_is_not_asked_to_the_end_by_four_processes(tmp_path: Path) -> None:
    """None of them comes to 50 replies before the end; the second suite is given up by itself."""
    prepare(tmp_path, 4 * 50)
    source = f'[source]\npath = "{tmp_path / "data.jsonl"}"\n'
    names = [f"fruit{i}" for i in range(2)]
    for name in names:
        write_suite(tmp_path / name, MCQ_SUITE.replace('name = "fruit"', f'name = "{name}"') + source)
    words = [*(str(tmp_path / name) for name in names), "--concurrency", "4", "--workers", "4"]
    with ScriptedServer.in_thread({"": (Fail(400, delay_s=0.1),)}) as server:
        result = accuracy(tmp_path, server, *words)
    assert result.exit_code == 1
    summary = read(run_folder(tmp_path) / "summary.json")
    assert summary["partial"]
    assert "fruit0, fruit1: stopped, more than half of the last 50 replies" in summary["verdict"]["reason"]
    for suite in summary["suites"]:
        assert suite["error"] >= 50
        assert suite["skipped"] >= 50


def test_a_process_that_has_ended_need_not_hear_that_the_suite_is_given_up(tmp_path: Path) -> None:
    """All its replies were right; it is gone, unless it began late, when the other comes to 26 errors among 50."""
    words = (*prepare(tmp_path, 100), "--concurrency", "2", "--workers", "2")
    acts = {f"question {i}": (Fail(400, delay_s=0.1),) if i % 2 else (Say(GOLD[i % 4]),) for i in range(100)}
    with ScriptedServer.in_thread(acts) as server:
        result = accuracy(tmp_path, server, *words)
    assert result.exit_code == 1, result.stderr
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert suite["error"] >= 26
    assert suite["correct"] + suite["error"] + suite["skipped"] == 100


def test_a_host_with_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = prepare(tmp_path, COUNT)

    class Swapping(FarLink):
        """Another file lies on its host, from when the run has read its own."""

        async def send(self, line: bytes) -> None:
            data = Path(words[-1])
            await asyncio.to_thread(data.write_text, data.read_text().replace("question 1", "question one"))
            await super().send(line)

    monkeypatch.setattr(accuracy_settings, "find_links", lambda *_: [Swapping(Remote(ANSWER_WORKER))])
    with ScriptedServer.in_thread(mixed()) as server:
        result = accuracy(tmp_path, server, *words, "--workers", "2")
        assert server.num_chats == 0
    assert "put the same files on both" in result.stderr
    assert result.exit_code != 0


def test_what_cannot_be_shared_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = prepare(tmp_path, 4)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    cases = {
        "ray://head:10001": "pip install 'ming-eval[cluster]'",
        "many": "bad --workers 'many'",
        "17": "17 workers share 16 requests at a time",
    }
    with ScriptedServer.in_thread(mixed()) as server:
        for typed, message in cases.items():
            result = accuracy(tmp_path, server, *words, "--workers", typed)
            assert result.exit_code == 2
            assert message in result.stderr
        assert server.num_chats == 0
    assert not (tmp_path / "results").exists()
