"""Tests that several processes divide say what became of each, also when they are stopped half way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.kept import share_of
from tests.waiting import wait_for

TESTS = """
import os, time
import pytest
@pytest.mark.parametrize("i", range(3))
def test_good(i):
    print("sees", os.environ["CUDA_VISIBLE_DEVICES"])
def test_bad():
    assert 1 == 2, "as it must"
@pytest.mark.skipif(True, reason="of no use")
def test_left_out():
    pass
"""
HANGS = "\ndef test_hangs():\n    time.sleep(600)\n"


def start(folder: Path, text: str, *options: str) -> subprocess.Popen[str]:
    (folder / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "tests.benchmarks.side_by_side", str(folder), "it", str(folder / "kept.txt")]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "PYTEST"))}
    whole = [*command, f"{folder}/test_it.py -s", *options]
    return subprocess.Popen(whole, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_shares_are_whole_and_keep_what_belongs_together() -> None:
    ids = ["a::test_every_variant[x]", "a::test_every_variant[y]", *(f"a::test_small[{i}]" for i in range(9))]
    ids += ["b::test_one", "b::test_two"]
    shares = [share_of(ids, i, 3) for i in range(3)]
    assert sorted(test for share in shares for test in share) == sorted(ids)
    assert {f"a::test_small[{i}]" for i in range(9)} < shares[2], "the heavy ones have a share each"


@pytest.mark.slow
def test_every_test_is_run_once_on_a_gpu_of_its_own(tmp_path: Path) -> None:
    process = start(tmp_path, TESTS, "--processes", "2", "--gpus", "2")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    kept = (tmp_path / "kept.txt").read_text().splitlines()
    assert sorted(line.split()[0] for line in kept) == ["FAILED", "PASSED", "PASSED", "PASSED", "SKIPPED"]
    (failure,) = [line for line in said.splitlines() if line.startswith("FAILED ") and line.count(" s it.")]
    assert failure.endswith("test_bad: AssertionError: as it must assert 1 == 2")
    assert "of no use" in said
    logs = [(tmp_path / f"it.{i}.log").read_text() for i in range(2)]
    seen = {line for log in logs for line in log.split("\n") if "sees" in line}
    assert {line.rpartition(" ")[2] for line in seen} <= {"0", "1"}
    assert all(f"sees {1 - i}" not in log for i, log in enumerate(logs))


@pytest.mark.slow
def test_a_stopped_run_says_what_passed_and_what_was_running(tmp_path: Path) -> None:
    process = start(tmp_path, TESTS + HANGS, "--gpus", "1")
    kept = tmp_path / "kept.txt"
    wait_for(lambda: kept.exists() and "test_left_out" in kept.read_text())
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.count("PASSED") == 3
    assert said.splitlines()[-1].startswith("it.0: 3 passed, 1 failed, 1 skipped in ")
    assert said.splitlines()[-1].endswith("test_it.py::test_hangs")
