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


def counters(count: int) -> Callable[[torch.device], Tensor]:
    """Device -> zeros int32 [count], the same ones each time: for the launches of one kernel."""

    @lru_cache(maxsize=8)
    def on(device: torch.device) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=device)

    return on
