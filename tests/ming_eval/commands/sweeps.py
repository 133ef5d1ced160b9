"""Runs of `ming-eval sweep` against scripted servers, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from ming_eval.cli import app
from tests.fakes import Script

ROOT = Path(__file__).parents[3]
FAST = Script(gap_s=0.002)


def sweep(out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["sweep", "--out", str(out), *words])


def run_folder(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def summary_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_folder(out) / "summary.json").read_text())
    return content


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder(out) / "requests.jsonl").read_text().splitlines()]


def start(folder: Path, *words: str, terminal: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "sweep", "--out", "out", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with_hang_up = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` would pass on its deafness
    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=terminal,
        stderr=terminal,
        process_group=0,
        preexec_fn=with_hang_up,
    )
