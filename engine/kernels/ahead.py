"""Weights that the next kernels read, asked for while a kernel waits for something else than memory.

A sum over ranks or the attention of a few tokens leaves the memory idle for microseconds. Programs behind the kernel's
own ones ask the second-level cache for what follows, and end: nobody waits for what they asked for, and whoever reads
those weights next finds them on the chip, or on their way. Nothing but time depends on it.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any

from torch import Tensor

from engine.kernels.paths import current
from engine.kernels.programmatic import prefetch, supported
from engine.kernels.triton_support import jit, num_multiprocessors, tl
from engine.quantised import Quantised, Weight

PIECE = 1 << 14  # bytes of a request
# The second-level cache of an H100 holds 50 MB, and what is being read meanwhile needs some of it.
MOST_BYTES = 24 << 20


@jit
def ask_ahead(ptr, num_bytes, program, programs, PIECE: tl.constexpr):
    """Ask for the share of `program`, one of `programs`, of `num_bytes` from `ptr` on: whole 16 bytes, all of them."""
    pieces = num_bytes // PIECE
    for piece in range(program, pieces, programs):
        prefetch(ptr.to(tl.pointer_type(tl.int8)) + piece * PIECE, PIECE, True)


def ahead_of(weight: Weight | None, like: Tensor) -> tuple[Tensor, int, int]:
    """What `ask_ahead` is to ask for on the device of `like`, in how many bytes, by how many programs: 0, 0 is nothing.

    The last bytes of a weight that is no multiple of a piece are left out, and so is what the cache has no room for.
    """
    if weight is None or not current().ahead or not supported(like.device):
        return like, 0, 0
    held = weight.packed if isinstance(weight, Quantised) else weight
    if not held.is_contiguous() or held.data_ptr() % 16:
        return like, 0, 0
    num_bytes = min(held.numel() * held.element_size(), MOST_BYTES)
    return (held, num_bytes, num_multiprocessors(held.device)) if num_bytes >= PIECE else (like, 0, 0)


def ahead_options(programs: int) -> dict[str, Any]:
    """The constant by which a kernel knows that there are such programs."""
    return {"AHEAD": programs > 0, "PIECE": PIECE}
