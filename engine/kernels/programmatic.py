"""Programmatic dependent launches (compute capability 9.0 and later): a kernel starts while the one before it ends.

A kernel launched so calls `wait_then_release` before it reads or writes anything but weights: that waits until the
kernel before it has ended and its writes are to be seen, and then lets the next one start. Because every such kernel
waits, the end of one means the end of all before it; so a buffer that any earlier kernel read may be written again, as
on a stream without overlap. In front of it stand loads of weights, and `prefetch`, which does not wait for them.

The wait must stand in front of loops: Triton's pipeliner moves the first loads of a loop ahead of a wait inside it.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from engine.kernels.paths import current
from engine.kernels.triton_support import constexpr, jit, tl

FIRST_CAPABILITY = (9, 0)

# One thread of the program asks for everything: the request is one instruction, whatever its size.
PREFETCH = constexpr("""{
    .reg .pred first;
    .reg .u32 thread;
    mov.u32 thread, %tid.x;
    setp.eq.u32 first, thread, 0;
    @first cp.async.bulk.prefetch.L2.global [$1], $2;
    mov.u32 $0, 0;
}""")


@jit
def wait_then_release(PDL: tl.constexpr):
    """Wait for the kernels before this one, then let the next one start. Nothing without `PDL`."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@jit
def prefetch(ptr, num_bytes, PDL: tl.constexpr):
    """Ask the second-level cache for `num_bytes` of weights from `ptr` on, both multiples of 16. Nothing without `PDL`.

    Never behind the end of a tensor: unlike a load that is masked, a request for foreign memory may fail.
    """
    if PDL:
        tl.inline_asm_elementwise(
            PREFETCH, "=r,l,r", [ptr.to(tl.int64), num_bytes], dtype=tl.int32, is_pure=False, pack=1
        )


def launch_options(device: torch.device) -> dict[str, Any]:
    """Arguments of a launch on `device`: whether the kernel overlaps the one before it."""
    if current().programmatic and supported(device):
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}


@lru_cache(maxsize=16)
def supported(device: torch.device) -> bool:
    """Whether kernels on `device` can start early: the interpreter runs them one after the other.

    Tensors without storage are launched on by compile checks alone, for such a device.
    """
    if tl is None or not hasattr(tl.extra.cuda, "gdc_wait"):
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY
    return device.type == "meta"
