"""Triton where it is installed, and the one decision every wrapper makes: kernel or reference.

Triton is optional. Without it (macOS, CPU-only installs) `jit` leaves functions as they are, nothing calls them, and
the references run. With `TRITON_INTERPRET=1` in the environment Triton runs kernels on the CPU, one program after
the other, and wrappers send CPU tensors to them: kernels are tested that way where there is no GPU.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from functools import lru_cache
from inspect import signature
from typing import Any, Final

import torch
from torch import Tensor

__all__ = [
    "INTERPRET",
    "TritonError",
    "cdiv",
    "constexpr",
    "jit",
    "next_power_of_2",
    "num_multiprocessors",
    "only_compile",
    "tl",
    "triton",
    "use_kernel",
]

log = logging.getLogger(__name__)

only_compile: Final[ContextVar[bool]] = ContextVar("launches only compile", default=False)

try:
    import triton
    import triton.language as tl
    from triton.errors import TritonError
    from triton.language import constexpr
except ModuleNotFoundError:
    triton = tl = None
    TritonError = RuntimeError

    def jit(function: Any) -> Any:
        """Stand-in for `triton.jit`: the function is never launched."""
        return function

    def constexpr(value: Any) -> Any:
        """Stand-in for a constant that kernels read."""
        return value


if triton is not None:

    class _Kernel(triton.JITFunction):
        """A kernel whose launches end before anything runs while `only_compile` says so."""

        def run(self, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            return super().run(*args, grid=grid, warmup=warmup or only_compile.get(), **options)

    def jit(function: Any) -> Any:
        """`triton.jit`, by which a count is a number: not one kernel for 1, one for multiples of 16, one for the rest.

        Nothing is gained from knowing how many tokens, pairs or rows there are, nor how wide a table is, and every
        kernel less is a second less that somebody waits for the first step of a size.
        """
        counts = [name for name in signature(function).parameters if name.startswith("num_") or name == "table_stride"]
        dynamic = [name for name in counts if "constexpr" not in str(function.__annotations__.get(name, ""))]
        if triton.knobs.runtime.interpret:
            return triton.jit(function, do_not_specialize=dynamic)
        return _Kernel(function, do_not_specialize=dynamic)


# Triton binds kernels to its interpreter or its compiler when they are defined: TRITON_INTERPRET is read once.
INTERPRET = triton is not None and bool(triton.knobs.runtime.interpret)


def use_kernel(x: Tensor) -> bool:
    """Whether an operation on `x` launches its Triton kernel; otherwise its reference runs."""
    if triton is None:
        if x.is_cuda:
            _warn_once()
        return False
    return x.is_cuda or INTERPRET


@lru_cache(maxsize=1)
def _warn_once() -> None:
    log.warning("Triton is not installed: the GPU runs the plain PyTorch references, many times slower")


@lru_cache(maxsize=8)
def num_multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU: what a grid must fill. 132 off the GPU, where only correctness is at stake."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not below `n` >= 1: the size of a block that covers `n`."""
    return 1 << (n - 1).bit_length()


def cdiv(n: int, d: int) -> int:
    """`n / d` rounded up."""
    return -(-n // d)
