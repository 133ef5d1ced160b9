"""Sums over ranks in one way across the link: each rank sends its share, and a word says itself that it has come.

`peer_sum` meets through flags and then reads: the flag goes over, then the read and its answer. Here a rank writes its
share into the others' memory in words of 8 bytes, half of them two values, half the number of the meeting. A word
arrives whole, so whoever finds the number has the values, and nothing is ordered before or after anything (the
low-latency protocol of NCCL). The sum runs in rank order: every rank gets the same bits.

A word is written again two meetings later at the earliest, since meetings take turns with two buffers: as with
`peer_sum`, whoever sends in the second one has finished reading the first.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.expert_sum import ExpertRows, weighted_pairs
from engine.kernels.pairs import as_pairs, high_of, low_of, paired
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.rms_norm import weigh
from engine.kernels.triton_support import jit, next_power_of_2, tl

MOST_ROWS = 64  # twice the bytes cross the link: from some size on reading is as fast
WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Where ranks leave words for each other: int64 [rows, size, D / 2] in every rank's memory, at one offset.

    `bases` int64 [size] are the addresses of the ranks' memory, `meetings` int32 [rows] is this rank's own count.
    """

    bases: Tensor
    rank: int
    size: int
    offset: int
    meetings: Tensor


@jit
def _push_sum_kernel(
    bases_ptr,
    meetings_ptr,
    share_ptr,
    expert_weights_ptr,
    shared_ptr,
    x_ptr,
    weight_ptr,
    total_ptr,
    out_ptr,
    mail_offset,
    eps,
    dim: tl.constexpr,
    RANK: tl.constexpr,
    SIZE: tl.constexpr,
    PAIRS: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row [D] of PAIRS pairs: its sum over the ranks, the residual sum, and its norm.

    With TOP_K this rank's share is the weighted sum of so many rows at `share_ptr`.
    """
    row = tl.program_id(0)
    col = tl.arange(0, PAIRS)
    cell = row.to(tl.int64) * PAIRS + col
    weight = tl.load(weight_ptr + col)
    wait_then_release(PDL)
    if TOP_K:
        token = row.to(tl.int64)
        own = weighted_pairs(share_ptr, expert_weights_ptr, shared_ptr, token, col, PAIRS, TOP_K, SHARED)
    else:
        own = tl.load(share_ptr + cell)
    number = tl.load(meetings_ptr + row) + 1
    word = (number.to(tl.int64) << 32) | (own.to(tl.int64) & 0xFFFFFFFF)
    for peer in tl.static_range(SIZE):
        if peer != RANK:
            theirs = (tl.load(bases_ptr + peer) + mail_offset).to(tl.pointer_type(tl.int64))
            tl.store(theirs + (row * SIZE + RANK).to(tl.int64) * PAIRS + col, word)
    tl.debug_barrier()  # what the others wait for is on its way before this one waits
    x = tl.load(x_ptr + cell)
    mail = (tl.load(bases_ptr + RANK) + mail_offset).to(tl.pointer_type(tl.int64))
    low, high = tl.zeros([PAIRS], tl.float32), tl.zeros([PAIRS], tl.float32)
    for peer in tl.static_range(SIZE):
        bits = own
        if peer != RANK:
            at = mail + (row * SIZE + peer).to(tl.int64) * PAIRS + col
            found = tl.load(at, volatile=True)
            while tl.max(((found >> 32).to(tl.int32) != number).to(tl.int32), 0) != 0:
                found = tl.load(at, volatile=True)
            bits = found.to(tl.int32)
        low += low_of(bits)
        high += high_of(bits)
    tl.store(meetings_ptr + row, number)
    # Each sum is rounded once, as `sum_add_norm_reference` does.
    low = low_of(x) + low.to(tl.bfloat16).to(tl.float32)
    high = high_of(x) + high.to(tl.bfloat16).to(tl.float32)
    total = paired(low, high)
    tl.store(total_ptr + cell, total)
    low, high = low_of(total), high_of(total)
    scale = tl.rsqrt(tl.sum(low * low + high * high, 0) / dim + eps)
    low = weigh(low, scale, low_of(weight), tl.bfloat16).to(tl.float32)
    high = weigh(high, scale, high_of(weight), tl.bfloat16).to(tl.float32)
    tl.store(out_ptr + cell, paired(low, high))


def takes_push(x: Tensor, most_rows: int) -> bool:
    """Whether rows like these [T, D] go that way: pairs of bfloat16, a power of two of them, and not too many rows."""
    width = x.shape[1]
    return x.dtype == torch.bfloat16 and width == next_power_of_2(width) and width >= 2 and 0 < len(x) <= most_rows


def push_sum_add_norm(
    box: Mailbox, share: Tensor | ExpertRows, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`sum_add_norm_reference` of every rank's `share` [T, D]: all of them must call it with the same T.

    A share may be the rows of experts, which are summed first.
    """
    num_rows, dim = x.shape
    assert takes_push(x, len(box.meetings)), "the mailbox was made for other rows"
    assert x.is_contiguous()
    assert weight.is_contiguous()
    assert weight.dtype == x.dtype
    total, out = torch.empty_like(x), torch.empty_like(x)
    own = share.arguments() if isinstance(share, ExpertRows) else (share, share, share)
    rows, expert_weights, shared = own
    constants = share.constants() if isinstance(share, ExpertRows) else {"TOP_K": 0, "SHARED": False}
    pairs = [as_pairs(tensor) for tensor in (x, weight, total, out)]
    _push_sum_kernel[(num_rows,)](
        box.bases,
        box.meetings,
        as_pairs(rows),
        expert_weights,
        as_pairs(shared),
        *pairs,
        box.offset,
        eps,
        dim,
        RANK=box.rank,
        SIZE=box.size,
        PAIRS=dim // 2,
        **constants,
        num_warps=min(max(dim // 512, 1), 16),
        **launch_options(x.device),
    )
    return total, out
