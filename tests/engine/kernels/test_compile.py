"""Every kernel compiles for a Hopper GPU at the released sizes, without spills and within its shared memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from engine.kernels.triton_support import INTERPRET
from tests.engine.kernels.compiling import CUOBJDUMP, Compiled, compile_launches
from tests.engine.kernels.launches import launches

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRET, reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not CUOBJDUMP.exists(), reason="this build of Triton carries no NVIDIA tools"),
]

SHARED_LIMIT = 227 * 1024  # of one program on compute capability 9.0


def compiled(name: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, Compiled]:
    return {kernel.name: kernel for kernel in compile_launches(launches(dtype)[name])}


@pytest.mark.parametrize("name", launches(torch.bfloat16))
def test_fits_the_machine(name: str) -> None:
    for kernel in compiled(name).values():
        assert kernel.shared_bytes <= SHARED_LIMIT, kernel
        assert kernel.stack_bytes == 0, f"{kernel} keeps values in memory"


@pytest.mark.parametrize("name", ["experts 1", "experts 64", "decode 8", "prefill 2048"])
def test_float32_fits_the_machine(name: str) -> None:
    for kernel in compiled(name, torch.float32).values():
        assert kernel.shared_bytes <= SHARED_LIMIT, kernel


READERS = {"_up_kernel", "_down_kernel", "_decode_kernel", "_skinny_kernel"}
READS = ["experts 1", "experts 32", "experts 64", "decode 1", "decode 32", "experts-fp8 32", "experts-int4 32"]


@pytest.mark.parametrize("name", [*READS, "linear-fp8 8"])
def test_weights_and_keys_arrive_in_wide_asynchronous_copies(name: str) -> None:
    """What a step is bound by: 16 bytes a thread, past the registers, several of them under way."""
    readers = [k for n, k in compiled(name).items() if n in READERS]
    assert readers
    for kernel in readers:
        assert "LDGSTS.E.BYPASS.128" in kernel.sass, kernel


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("experts 8192", "_up_kernel"), ("experts 8192", "_down_kernel"), ("prefill 8192", "_prefill_kernel")],
)
def test_prefill_uses_the_warpgroup_matrix_unit(name: str, kernel: str) -> None:
    found = compiled(name)[kernel]
    assert found.count("HGMMA") > 0
    assert found.count("HMMA") == 0
