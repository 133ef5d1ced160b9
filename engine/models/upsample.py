"""Linear upsampling over time, whole or in a stream.

A column depends on its neighbours to both sides, so a stream gives a chunk out when the next one has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class UpsampleState:
    """The chunk that waits for its right neighbour, [n, D], and the column before it, [1, D] or none."""

    held: Tensor
    left: Tensor | None


def upsample(x: Tensor, factor: int) -> Tensor:
    """[n, D] -> [n * factor, D]; the coordinate of output i is (i + 0.5) / factor - 0.5, held at the ends."""
    return F.interpolate(x.t()[None], scale_factor=factor, mode="linear")[0].t()


def upsample_stream(x: Tensor, factor: int, state: UpsampleState | None, last: bool) -> tuple[Tensor, UpsampleState]:
    """One more chunk [n, D], n > 0 -> the columns [m * factor, D] that are now final: of all chunks before it, and its
    own where it is the last. Over a whole stream they are those of `upsample`.
    """
    if state is None:
        known, left = x[:0], None
    else:
        known, left = state.held, state.left
    before = known.shape[0]
    sequence = torch.cat((known, x)) if left is None else torch.cat((left, known, x))
    skipped = 0 if left is None else factor
    num_final = before + (len(x) if last else 0)
    columns = upsample(sequence, factor)[skipped : skipped + num_final * factor]
    return columns, UpsampleState(x, known[-1:] if before else None)
