"""A short run loads only what it needs: its time from start to end is mostly imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import FakeServer, Script

ROOT = Path(__file__).parents[3]
HEAVY = ("aiohttp", "numpy", "pydantic", "rich.console", "yaml", "matplotlib", "torch", "ming_eval.report.plots")
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr))
from ming_eval.cli import main
main()
"""


@pytest.mark.slow
def test_a_one_token_run_loads_nothing_heavy(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script()) as server:
        words = ["sweep", "--backend", f"s={server.url}", "--concurrency", "1", "--requests", "1", "--max-tokens", "1"]
        command = [sys.executable, "-c", PROGRAM, *words, "--out", str(tmp_path)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert len(server.chats) == 2  # one of them to warm up
    assert done.stderr.splitlines()[-1].strip() == "loaded:"
