"""Two bfloat16 side by side in 32 bits: what travels between ranks in words, and is read as such."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.triton_support import jit, tl


def as_pairs(x: Tensor) -> Tensor:
    """Contiguous bfloat16 [..., 2 n] as int32 [..., n], in the same memory."""
    return x.view(torch.int32)


@jit
def low_of(pair):
    """The first value of a pair, as float32."""
    return (pair << 16).to(tl.float32, bitcast=True)


@jit
def high_of(pair):
    """The second one."""
    return (pair & -65536).to(tl.float32, bitcast=True)


@jit
def paired(first, second):
    """Two float32, each rounded to bfloat16, as a pair."""
    low_bits = first.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return low_bits | (second.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) << 16)
