"""Triton is optional, and where it is used is decided in one place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.kernels import triton_support
from engine.kernels.triton_support import cdiv, next_power_of_2, use_kernel

ROOT = Path(__file__).parents[3]

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import importlib, pkgutil, torch
import engine.kernels
for module in pkgutil.walk_packages(engine.kernels.__path__, "engine.kernels."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from engine.kernels.rms_norm import rms_norm
print(rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 0.0).tolist())
"""


@pytest.mark.slow
def test_every_kernel_module_works_without_triton() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    # 3 and 4 over the root of their mean square, 12.5; the second weighs twice
    assert json.loads(done.stdout) == [pytest.approx([3 / 12.5**0.5, 8 / 12.5**0.5])]


def test_cpu_tensors_reach_kernels_only_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "INTERPRET", False)
    assert not use_kernel(torch.zeros(1))
    monkeypatch.setattr(triton_support, "INTERPRET", True)
    assert use_kernel(torch.zeros(1))
    monkeypatch.setattr(triton_support, "triton", None)
    assert not use_kernel(torch.zeros(1))


@pytest.mark.parametrize(("n", "power"), [(1, 1), (2, 2), (3, 4), (128, 128), (129, 256)])
def test_next_power_of_two(n: int, power: int) -> None:
    assert next_power_of_2(n) == power


def test_rounded_up_quotient() -> None:
    assert [cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
