"""A client that is starved says so itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes import FakeServer, Script
from tests.ming_eval.commands.sweeps import run_folder, start, summary_of
from tests.waiting import wait_for


def starve(pid: int, until: threading.Event) -> None:
    """Let the process run for 10 of every 100 ms."""
    with suppress(ProcessLookupError):
        while not until.wait(0.01):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.09)
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_client_held_to_a_tenth_of_a_core_calls_itself_invalid(tmp_path: Path) -> None:
    options = ("--concurrency", "2", "--requests", "40", "--max-tokens", "8", "--warmup", "0")
    with FakeServer.in_thread(Script(first_s=0.02, gap_s=0.005)) as server:
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: len(server.chats) > 2)
        done = threading.Event()
        starver = threading.Thread(target=starve, args=(process.pid, done))
        starver.start()
        wait_for(lambda: len(server.chats) == 40)
        done.set()
        starver.join(5)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = summary_of(tmp_path / "out")
    assert summary["validity"]["verdict"] == "invalid"
    (point,) = summary["points"]
    assert point["validity"]["verdict"] == "invalid"
    assert point["validity"]["loop_lag_p99_ms"] > 20
    assert "event-loop lag" in " ".join(point["validity"]["reasons"])
    for text in (out, (run_folder(tmp_path / "out") / "summary.md").read_text()):
        assert "Client: invalid" in " ".join(text.split())
