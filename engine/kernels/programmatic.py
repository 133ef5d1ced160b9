"""Programmatic dependent launches (compute capability 9.0 and later): a kernel starts while the one before it ends.

A kernel launched so calls `wait_then_release` before it reads or writes anything but weights: that waits until the
kernel before it has ended and its writes are to be seen, and then lets the next one start. Because every such kernel
waits, the end of one means the end of all before it; so a buffer that any earlier kernel read may be written again, as
on a stream without overlap. In front of it stand loads of weights, and `prefetch`, which does not wait for them; and of
what is older than the kernel that lets this one start, because that one has waited for it (`Paths.keys_early`: lengths,
tables, rotation and older keys of attention). Never of what the one before writes.

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

# A request in bulk takes an address that all threads of a warp share; this one is each thread's own, if it is wanted.
PREFETCH_WANTED = constexpr("""{
    .reg .pred wanted;
    setp.ne.u32 wanted, $2, 0;
    @wanted prefetch.global.L2 [$1];
    mov.u32 $0, 0;
}""")


@jit
def wait_then_release(PDL: tl.constexpr):
    """Wait for the kernels before this one and let the next one start. Nothing without `PDL`."""
    wait(PDL)
    release(PDL)


@jit
def wait(PDL: tl.constexpr):
    """Wait for the kernels before this one. `release` must follow, once and by every program.

    The assembler leaves loads where they stand between the two; without that it spares registers by asking for some of
    them when it has used others.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()


@jit
def release(PDL: tl.constexpr):
    """Let the next kernel start. Nothing without `PDL`."""
    if PDL:
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


@jit
def prefetch_lines(ptrs, wanted):
    """Ask the second-level cache for the lines at `ptrs` where `wanted`; not in the interpreter."""
    tl.inline_asm_elementwise(
        PREFETCH_WANTED, "=r,l,r", [ptrs.to(tl.int64), wanted.to(tl.int32)], dtype=tl.int32, is_pure=False, pack=1
    )


def launch_options(device: torch.device) -> dict[str, Any]:
    """Arguments of a launch on `device`: whether the kernel overlaps the one before it."""
    if current().programmatic and supported(device):
        return {"PDL": 1, "launch_pdl": True}
    return {"PDL": 0}


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
