"""Kernels, towers and cache on a GPU against the released code."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.goldens.__main__ import BFLOAT16_CASES, GPU_CASES, main

pytestmark = pytest.mark.gpu

GOLDENS = Path(__file__).parents[2] / "goldens" / "understanding"


@pytest.mark.parametrize("case", sorted(GPU_CASES))
def test_released_outputs(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDENS / case), "--device", "cuda"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("case", sorted(BFLOAT16_CASES))
def test_released_outputs_in_bfloat16(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside plain PyTorch."""
    assert main([str(GOLDENS / case), "--device", "cuda", "--dtype", "bfloat16"]) == 0, capsys.readouterr().out
