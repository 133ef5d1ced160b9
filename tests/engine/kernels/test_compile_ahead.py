"""Launches that only compile, on threads: what is launched behind them finds its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from engine.kernels import triton_support
from engine.kernels.compile_ahead import compiling_ahead
from engine.kernels.rms_norm import _rms_norm_kernel
from engine.kernels.triton_support import INTERPRET, only_compile
from tests.engine.kernels.compiling import NoDevice
from tests.engine.kernels.launches import norms

pytestmark = pytest.mark.skipif(INTERPRET, reason="the interpreter compiles nothing")


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Any, Any]]:
    """Compiled forms of the norm's kernel for a GPU that is not there: none yet, neither in memory nor on disk."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_support, "INTERPRET", True)  # tensors of the meta device are sent to kernels
    with mock.patch("triton.runtime.jit.driver", SimpleNamespace(active=NoDevice())):
        found = _rms_norm_kernel.device_caches[-1][0]
        before = dict(found)
        found.clear()
        yield found
        found.update(before)


def test_kernels_are_there_when_it_ends(kernels: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a residual sum; a launch of a kernel that is being compiled asks for no second one."""
    with compiling_ahead(2):
        norms(32, torch.bfloat16)
        norms(8, torch.bfloat16)
    assert len(kernels) == 2
    assert all(kernel.asm["cubin"] for kernel in kernels.values())
    monkeypatch.setattr(_rms_norm_kernel, "compile", lambda *_args, **_options: pytest.fail("compiled again"))
    token = only_compile.set(True)  # there is no device to launch on
    norms(64, torch.bfloat16)
    only_compile.reset(token)


def test_what_does_not_compile_is_said(kernels: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*_args: object, **_options: object) -> None:
        raise RuntimeError("out of registers")

    with compiling_ahead(1):
        norms(32, torch.bfloat16)  # binds the compiler
    kernels.clear()
    monkeypatch.setattr(_rms_norm_kernel, "compile", compile)
    with pytest.raises(RuntimeError, match="out of registers"), compiling_ahead(1):
        norms(32, torch.bfloat16)
    assert not only_compile.get()
    monkeypatch.undo()
    with compiling_ahead(1):
        pass
