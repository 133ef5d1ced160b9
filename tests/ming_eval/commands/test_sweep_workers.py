"""`ming-eval sweep --workers N`: several real processes make one load, and one run comes of it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ming_eval.cli import app
from tests.fakes import FakeServer, Fault, Script
from tests.ming_eval.commands.sweeps import lines_of, run_folder, start, summary_of, sweep
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files


@pytest.fixture(autouse=True)
def _quiet_children(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", str(root))


def asked(out: Path) -> set[tuple[str, str]]:
    return {(line["id"], line["request_sha256"]) for line in lines_of(out)}


def test_three_processes_ask_what_one_asks_and_leave_one_run(tmp_path: Path) -> None:
    options = ("--concurrency", "1,5", "--requests", "20", "--max-tokens", "4", "--api-key-env", "KEY")
    with FakeServer.in_thread(Script(gap_s=0.005, first_s=0.01)) as server:
        os.environ["KEY"] = "sk-very-secret"
        try:
            alone = sweep(tmp_path / "one", "--backend", f"s={server.url}", *options)
            shared = sweep(tmp_path / "three", "--backend", f"s={server.url}", *options, "--workers", "3")
        finally:
            del os.environ["KEY"]
        assert {request.headers["authorization"] for request in server.chats} == {"Bearer sk-very-secret"}
        assert server.max_concurrent == 5
    assert (alone.exit_code, shared.exit_code) == (0, 0), shared.stderr
    assert asked(tmp_path / "one") == asked(tmp_path / "three")
    folder = run_folder(tmp_path / "three")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jsonl"))
    assert names == ["outputs/s-c1.jsonl", "outputs/s-c5.jsonl", "phases.jsonl", "requests.jsonl"]
    lines = lines_of(tmp_path / "three")
    assert [line["sent_s"] for line in lines] == sorted(line["sent_s"] for line in lines)
    assert {line["slot"] for line in lines if line["concurrency"] == 5} == set(range(5))
    first, second = summary_of(tmp_path / "three")["points"]
    assert (first["requests"], second["requests"], second["warmup_requests"]) == (20, 20, 5)
    assert second["achieved_concurrency"]["max"] == 5
    assert [json.loads(line)["processes"] for line in (folder / "phases.jsonl").read_text().splitlines()] == [1, 3]
    assert [worker["host"] for worker in json.loads((folder / "workers.json").read_text())] == ["localhost"] * 3
    assert "sk-very-secret" not in "".join(path.read_text() for path in folder.rglob("*.json*"))
    assert "s c=5: 20/20 done, 0 failed, 3 workers" in shared.stderr


def test_an_open_loop_keeps_its_schedule(tmp_path: Path) -> None:
    options = ("--rate", "40", "--arrivals", "constant", "--requests", "24", "--max-tokens", "2", "--warmup", "0")
    with FakeServer.in_thread(Script()) as server:
        assert sweep(tmp_path, "--backend", f"s={server.url}", *options, "--workers", "2").exit_code == 0
    lines = sorted(lines_of(tmp_path), key=lambda line: line["index"])
    intended = [line["intended_s"] - 0.025 * line["index"] for line in lines]
    by_process = [intended[0::2], intended[1::2]]  # each has its own start, which the gate puts close together
    for mine in by_process:
        assert mine == pytest.approx([mine[0]] * 12, abs=1e-6)
    assert Counter(line["index"] for line in lines) == dict.fromkeys(range(24), 1)


def test_a_killed_run_is_read_with_what_its_workers_left_and_completed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--concurrency", "4", "--requests", "40", "--max-tokens", "4", "--workers", "2")
    with FakeServer.in_thread(Script(gap_s=0.02)) as server:
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: len(server.chats) >= 4 + 16)
        process.kill()
        process.communicate(timeout=120)
        folder = run_folder(out)
        wait_for(lambda: server.num_running == 0)  # the workers have noticed
        kept = len(server.chats) - 4
        report = CliRunner().invoke(app, ["report", str(folder)])
        assert report.exit_code == 0, report.output
        partial = json.loads((folder / "summary.json").read_text())
        assert (partial["partial"], partial["verdict"]["status"]) == (True, "killed")
        assert kept - 4 - 4 <= partial["requests"] <= kept  # in flight at the kill: 4 measured, 4 warm-up
        resumed = sweep(out, "--resume", folder.name)
    assert resumed.exit_code == 0, resumed.stderr
    counts = Counter(line["id"] for line in lines_of(out) if not line["warmup"])
    assert (len(counts), set(counts.values())) == (40, {1})
    assert summary_of(out)["points"][0]["requests"] == 40


def test_ctrl_c_stops_all_processes_and_keeps_what_there_is(tmp_path: Path) -> None:
    with FakeServer.in_thread(lambda i: Script() if i < 9 else Script(fault=Fault.HANG)) as server:
        options = ("--concurrency", "3", "--requests", "30", "--max-tokens", "12", "--workers", "3", "--warmup", "0")
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: server.num_running == 3 and len(server.chats) == 12)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        wait_for(lambda: server.num_running == 0)
    assert process.returncode == 130, err
    summary = summary_of(tmp_path / "out")
    assert (summary["verdict"]["status"], summary["requests"], summary["partial"]) == ("interrupted", 9, True)


def test_a_worker_that_dies_ends_the_run_with_a_word(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script(gap_s=0.02)) as server:
        options = ("--concurrency", "2", "--requests", "500", "--max-tokens", "4", "--workers", "2")
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: len(server.chats) >= 12)
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "ended by itself" in err
    summary: dict[str, Any] = summary_of(tmp_path / "out")
    assert summary["verdict"]["status"] == "aborted"
    assert summary["requests"] >= 6


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_waves_are_made_by_one_process(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--backend", "s=http://127.0.0.1:9", "--arrivals", "waves", "--workers", "2")
    assert result.exit_code == 2
    assert "one process" in result.stderr


def test_a_cluster_without_ray_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with FakeServer.in_thread(Script()) as server:
        result = sweep(tmp_path, "--backend", f"s={server.url}", "--workers", "ray")
        assert server.chats == []
    assert result.exit_code == 2
    assert "pip install 'ming-eval[cluster]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
