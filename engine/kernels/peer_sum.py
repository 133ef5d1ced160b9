"""Sums over ranks through memory that every GPU of the host can read: for messages too small for a library's rings.

One-shot all-reduce: each rank leaves its share in its own buffer, meets the others, then reads everybody's. The sum
runs in rank order, so that every rank gets the same bits. A program meets the programs of its own number on the other
ranks, through flags in their memory that hold the number of the meeting; a kernel starts behind the kernels before it
on its stream, so a peer that has arrived has written its share.

Two meetings in a row must use different buffers: whoever meets in the second one has finished reading the first.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.rms_norm import inverse_rms, rms_norm_reference, weigh
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl

GATHER_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class PeerBuffer:
    """One buffer of every rank, as this rank sees them.

    `bases` int64 [size] are the addresses of the ranks' memory. In each lie, at the same offsets in bytes, the flags
    int32 [rows, size] and the data. `meetings` int32 [rows] is this rank's own count.
    """

    bases: Tensor
    rank: int
    size: int
    flags_offset: int
    data_offset: int
    meetings: Tensor


def sum_add_norm_reference(shares: list[Tensor], x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Residual stream x [T, D] plus the sum of the ranks' shares [T, D], and its norm; each sum is rounded once."""
    total = x + torch.stack([share.float() for share in shares]).sum(dim=0).to(x.dtype)
    return total, rms_norm_reference(total, weight, eps)


@jit
def _meet(bases_ptr, flags_offset, meetings_ptr, row, RANK: tl.constexpr, SIZE: tl.constexpr):
    """Tell the other ranks' programs of this number that this one is here, and wait for them."""
    number = tl.load(meetings_ptr + row) + 1
    for peer in tl.static_range(SIZE):
        if peer != RANK:
            flags = (tl.load(bases_ptr + peer) + flags_offset).to(tl.pointer_type(tl.int32))
            tl.atomic_xchg(flags + row * SIZE + RANK, number, sem="release", scope="sys")
    own = (tl.load(bases_ptr + RANK) + flags_offset).to(tl.pointer_type(tl.int32))
    for peer in tl.static_range(SIZE):
        if peer != RANK:
            while tl.atomic_add(own + row * SIZE + peer, 0, sem="acquire", scope="sys") != number:
                pass
    tl.store(meetings_ptr + row, number)


@jit
def _sum(bases_ptr, data_offset, cell, mask, dtype: tl.constexpr, SIZE: tl.constexpr):
    """The ranks' values at `cell`, added in float32 and rounded to `dtype`."""
    total = tl.load((tl.load(bases_ptr) + data_offset).to(tl.pointer_type(dtype)) + cell, mask=mask, other=0.0)
    total = total.to(tl.float32)
    for peer in tl.static_range(1, SIZE):
        share = (tl.load(bases_ptr + peer) + data_offset).to(tl.pointer_type(dtype))
        total += tl.load(share + cell, mask=mask, other=0.0).to(tl.float32)
    return total.to(dtype)


@jit
def _sum_add_norm_kernel(
    bases_ptr,
    meetings_ptr,
    x_ptr,
    weight_ptr,
    total_ptr,
    out_ptr,
    flags_offset,
    data_offset,
    eps,
    dim: tl.constexpr,
    ADD_NORM: tl.constexpr,
    RANK: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row: its sum over the ranks and, with ADD_NORM, the residual sum and its norm."""
    row = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    mask = col < dim
    cell = row.to(tl.int64) * dim + col
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    if ADD_NORM:
        weight = tl.load(weight_ptr + col, mask=mask, other=0.0).to(tl.float32)
    # Before it meets the others: this rank's share is written, and what it read last time is read.
    wait_then_release(PDL)
    if ADD_NORM:  # a load that depends on nobody, under way while the others arrive
        x = tl.load(x_ptr + cell, mask=mask, other=0.0)
    _meet(bases_ptr, flags_offset, meetings_ptr, row, RANK, SIZE)
    total = _sum(bases_ptr, data_offset, cell, mask, dtype, SIZE)
    if ADD_NORM:
        total = (x.to(tl.float32) + total.to(tl.float32)).to(dtype)
        tl.store(total_ptr + cell, total, mask=mask)
        x32 = total.to(tl.float32)
        tl.store(out_ptr + cell, weigh(x32, inverse_rms(x32, dim, eps), weight, dtype), mask=mask)
    else:
        tl.store(out_ptr + cell, total, mask=mask)


@jit
def _meet_kernel(bases_ptr, meetings_ptr, flags_offset, RANK: tl.constexpr, SIZE: tl.constexpr, PDL: tl.constexpr):
    wait_then_release(PDL)
    _meet(bases_ptr, flags_offset, meetings_ptr, tl.program_id(0), RANK, SIZE)


@jit
def _gather_kernel(
    bases_ptr,
    out_ptr,
    data_offset,
    width,
    dtype: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [T, SIZE * width] float32 from the ranks' [T, width]: grid (T, SIZE, blocks of a share)."""
    wait_then_release(PDL)
    row, peer = tl.program_id(0).to(tl.int64), tl.program_id(1)
    col = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    mask = col < width
    share = (tl.load(bases_ptr + peer) + data_offset).to(tl.pointer_type(dtype))
    value = tl.load(share + row * width + col, mask=mask, other=0.0)
    tl.store(out_ptr + (row * SIZE + peer) * width + col, value.to(tl.float32), mask=mask)


def peer_sum_add_norm(buffer: PeerBuffer, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`sum_add_norm_reference` of the shares [T, D] in the ranks' buffers; every rank must call it with the same T."""
    total, out = torch.empty_like(x), torch.empty_like(x)
    _launch_sum(buffer, x, weight, total, out, eps, add_norm=True)
    return total, out


def peer_sum(buffer: PeerBuffer, like: Tensor) -> Tensor:
    """The plain sum of the shares, in the shape and dtype of `like` [T, D]."""
    out = torch.empty_like(like)
    _launch_sum(buffer, out, out, out, out, 0.0, add_norm=False)
    return out


def _launch_sum(
    buffer: PeerBuffer,
    x: Tensor,
    weight: Tensor,
    total: Tensor,
    out: Tensor,
    eps: float,
    *,
    add_norm: bool,
) -> None:
    """One program a row; pointers that a plain sum does not use are passed and never read."""
    num_rows, dim = out.shape
    assert num_rows <= len(buffer.meetings), "the buffer was made for fewer rows"
    block = next_power_of_2(dim)
    _sum_add_norm_kernel[(num_rows,)](
        buffer.bases,
        buffer.meetings,
        x,
        weight,
        total,
        out,
        buffer.flags_offset,
        buffer.data_offset,
        eps,
        dim,
        ADD_NORM=add_norm,
        RANK=buffer.rank,
        SIZE=buffer.size,
        BLOCK=block,
        num_warps=min(max(block // 256, 1), 16),
        **launch_options(out.device),
    )


def peer_gather(buffer: PeerBuffer, share: Tensor, out: Tensor | None = None) -> Tensor:
    """The ranks' shares [T, n], which lie in their buffers, side by side: -> float32 [T, size * n]."""
    num_rows, width = share.shape
    if out is None:
        out = torch.empty(num_rows, buffer.size * width, dtype=torch.float32, device=share.device)
    assert out.is_contiguous()
    assert out.shape == (num_rows, buffer.size * width)
    where = (buffer.bases, buffer.meetings, buffer.flags_offset)
    options = launch_options(share.device)
    _meet_kernel[(1,)](*where, RANK=buffer.rank, SIZE=buffer.size, num_warps=1, **options)
    dtype = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}[share.dtype]
    _gather_kernel[(num_rows, buffer.size, cdiv(width, GATHER_BLOCK))](
        buffer.bases, out, buffer.data_offset, width, dtype, SIZE=buffer.size, BLOCK=GATHER_BLOCK, **options
    )
    return out
