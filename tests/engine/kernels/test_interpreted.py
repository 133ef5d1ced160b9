"""Runs the kernels on the CPU: Triton decides between interpreter and compiler when it is imported, once a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernels.triton_support import INTERPRET

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRET, reason="this process interprets kernels already"),
]


def interpret(*command: str) -> str:
    """Run `python -m ...` with the interpreter on; its output, or the test fails with it."""
    env = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_kernels_against_their_references() -> None:
    assert " passed" in interpret("pytest", "tests/engine/kernels/device", "-p", "no:cacheprovider", "-n", "0")


def test_released_outputs_through_the_kernels() -> None:
    """The whole thinker, image and audio gates included, with every operation on its kernel."""
    output = interpret("engine.goldens", "tests/goldens/understanding/b_thinker_multirouter")
    assert output.startswith("ok"), output
