"""Which program of a launch is the last to finish its part, so that it can go on with what all of them wrote.

Every program stores, then says so at a counter in device memory. Counters are zero between launches, which follow each
other on one stream; the last program sets its counter back. What the others stored it reads past the first-level cache,
which may hold what the same cells were in an earlier launch.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from engine.kernels.triton_support import jit, tl


@jit
def is_last(counter_ptr, num_programs):
    """Whether all others of `num_programs` have stored before this one, whose stores are seen from here on."""
    tl.debug_barrier()  # all threads have stored before one of them says so
    return tl.atomic_add(counter_ptr, 1, sem="acq_rel") == num_programs - 1


@jit
def store_sum(
    acc, parts_ptr, counter_ptr, y_ptr, cell, mask, part, size, SPLITS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store part `part` of SPLITS [ROWS, COLUMNS] in parts of `size`; the last program adds all, to `cell` of y.

    They are added in their order whoever is last, so that equal inputs give equal bits.
    """
    if SPLITS == 1:
        tl.store(y_ptr + cell, acc, mask=mask)
    else:
        tl.store(parts_ptr + part * size + cell, acc, mask=mask)
        if is_last(counter_ptr, SPLITS):
            total = tl.zeros([ROWS, COLUMNS], tl.float32)
            for _ in range(SPLITS):
                total += tl.load(parts_ptr + cell, mask=mask, other=0.0, cache_modifier=".cg")
                parts_ptr += size
            tl.store(y_ptr + cell, total, mask=mask)
            tl.store(counter_ptr, 0)  # for the next launch


def counters(count: int) -> Callable[[torch.device], Tensor]:
    """Device -> zeros int32 [count], the same ones each time: for the launches of one kernel."""

    @lru_cache(maxsize=8)
    def on(device: torch.device) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=device)

    return on
