"""Sweeps that are interrupted or killed keep what they have."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ming_eval.cli import app
from tests.fakes import FakeServer, Fault, Script
from tests.ming_eval.commands.sweeps import lines_of, run_folder, start, summary_of
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files


def hanging_from(index: int) -> Callable[[int], Script]:
    return lambda number: Script() if number < index else Script(fault=Fault.HANG, fault_at=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_sweep_writes_what_there_is(tmp_path: Path, number: signal.Signals) -> None:
    """Point c=1 is whole (4 of 4), of c=2 the first 3 of 4 have ended, c=4 never began."""
    with FakeServer.in_thread(hanging_from(7)) as server:
        options = ("--concurrency", "1..4", "--requests", "4", "--max-tokens", "3", "--warmup", "0")
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: server.num_running == 1 and len(server.chats) == 8)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    summary = summary_of(tmp_path / "out")
    assert (summary["partial"], summary["verdict"]["status"]) == (True, "interrupted")
    assert [(p["concurrency"], p["planned"], p["requests"]) for p in summary["points"]] == [(1, 4, 4), (2, 4, 3)]
    assert summary["failed"] == 0  # what was given up is no failure of the server
    assert "Partial" in (run_folder(tmp_path / "out") / "summary.md").read_text()
    assert "interrupted: stopped by a signal before the end; the figures above are partial" in out
    whole, cut = summary["points"]
    assert (whole["interrupted"], cut["interrupted"], summary["not_started"]) == (False, True, ["s c=4"])
    assert whole["output_tokens_per_s"] > 0
    assert (cut["requests_per_s"], cut["output_tokens_per_s"]) == (None, None)
    assert "given up" in cut["rate_reason"]
    assert re.search(r"^s +2\* +3 ", out, re.MULTILINE)
    assert "\n* interrupted: 3 of 4 requests; no rates" in out
    assert "- None of the 7 requests that ended has failed.\n- Not started: s c=4.\n" in out


def test_a_terminal_that_closes_costs_no_results(tmp_path: Path) -> None:
    """The kernel sends SIGHUP, a shell another one; from then on nothing can be printed."""
    with FakeServer.in_thread(hanging_from(3)) as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "4", "--warmup", "0")
        ours, theirs = os.openpty()
        process = start(tmp_path, *options, terminal=theirs)
        os.close(theirs)
        wait_for(lambda: server.num_running == 1 and len(server.chats) == 4)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        process.wait(120)
    assert process.returncode == 130
    summary = summary_of(tmp_path / "out")
    assert (summary["verdict"]["status"], summary["requests"]) == ("interrupted", 3)


@pytest.mark.slow
def test_a_killed_sweep_can_be_summed_up_from_its_requests(tmp_path: Path) -> None:
    with FakeServer.in_thread(hanging_from(6)) as server:
        options = ("--concurrency", "1..2", "--requests", "4", "--max-tokens", "3", "--warmup", "0")
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: server.num_running == 2 and len(server.chats) == 8)
        wait_for(lambda: len(lines_of(tmp_path / "out")) == 6)  # a reply is written after the next request is sent
        process.kill()
        process.communicate(timeout=120)
    folder = run_folder(tmp_path / "out")
    assert not (folder / "summary.json").exists()
    listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path / "out")])
    assert "unfinished" in listed.stdout
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0
    summary = summary_of(tmp_path / "out")
    assert (summary["partial"], summary["verdict"]["status"], summary["finished"]) == (True, "killed", None)
    assert [(p["concurrency"], p["requests"], p["output_tokens"]) for p in summary["points"]] == [(1, 4, 12), (2, 2, 6)]
    assert "Partial" in (folder / "summary.md").read_text()
