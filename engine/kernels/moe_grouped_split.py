"""Experts of many tokens with fp8 weights, by the fp8 matrix unit: `moe_grouped` without widening a weight.

A row in two parts takes as much of the fp8 unit's time as one row takes of the bfloat16 unit's.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.moe_grouped import GroupedTuning, Grouping, _find_tile
from engine.kernels.quantised_tiles import expert_at, narrowed, scales_at
from engine.kernels.split_rows import SplitRows
from engine.kernels.split_tiles import split_product, split_up_tile
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl
from engine.quantised import Quantised


@jit
def _grouped_split_up_kernel(
    x_ptr,
    xs_ptr,
    pairs_ptr,
    starts_ptr,
    first_tile_ptr,
    w13_ptr,
    scales_ptr,
    h_ptr,
    num_experts: tl.constexpr,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """h [P, F] in sorted order. Programs of one tile are neighbours, as in `moe_grouped`."""
    blocks: tl.constexpr = (width + BLOCK_F - 1) // BLOCK_F
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, start, end = _find_tile(tile, starts_ptr, first_tile_ptr, num_experts, BINS, ROWS)
    if expert >= num_experts:
        return
    row = start + tl.arange(0, ROWS)
    exists = row < end
    token = tl.where(exists, tl.load(pairs_ptr + row, mask=exists, other=0) // top_k, -1).to(tl.int64)
    w_ptr = expert_at(w13_ptr, expert, 2 * width, dim, "fp8")
    s_ptr = scales_at(scales_ptr, expert, 2 * width, dim, "fp8", RB, CB)
    first = block * BLOCK_F
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    h = split_up_tile(w_ptr, s_ptr, x_ptr, xs_ptr, token, first, dim, width, dtype, ROWS, BLOCK_F, BLOCK_K, RB, CB)
    feature = first + tl.arange(0, BLOCK_F)
    mask = (feature < width)[:, None] & exists[None, :]
    tl.store(h_ptr + row.to(tl.int64)[None, :] * width + feature[:, None], h, mask=mask)


@jit
def _grouped_split_down_kernel(
    h_ptr,
    hs_ptr,
    pairs_ptr,
    starts_ptr,
    first_tile_ptr,
    w2_ptr,
    scales_ptr,
    y_ptr,
    num_experts: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y [P, D] in the order of the pairs."""
    blocks: tl.constexpr = (dim + BLOCK_D - 1) // BLOCK_D
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, start, end = _find_tile(tile, starts_ptr, first_tile_ptr, num_experts, BINS, ROWS)
    if expert >= num_experts:
        return
    row = start + tl.arange(0, ROWS)
    exists = row < end
    w_ptr = expert_at(w2_ptr, expert, dim, width, "fp8")
    s_ptr = scales_at(scales_ptr, expert, dim, width, "fp8", RB, CB)
    first, rows = block * BLOCK_D, tl.where(exists, row, -1).to(tl.int64)
    y = split_product(w_ptr, s_ptr, h_ptr, hs_ptr, rows, first, 0, width, dim, width, ROWS, BLOCK_D, BLOCK_K, RB, CB)
    feature = first + tl.arange(0, BLOCK_D)
    pair = tl.load(pairs_ptr + row, mask=exists, other=0).to(tl.int64)
    mask = (feature < dim)[:, None] & exists[None, :]
    tl.store(y_ptr + pair[None, :] * dim + feature[:, None], y, mask=mask)


def up_grouped_split(
    x: SplitRows, w13: Quantised, grouping: Grouping, top_k: int, dtype: torch.dtype, tuning: GroupedTuning
) -> Tensor:
    """The first product of x [T, D]: -> h [P, F] of `dtype` in sorted order."""
    num_experts, double_width, dim = w13.shape
    width = double_width // 2
    h = torch.empty(len(grouping.pairs), width, dtype=dtype, device=grouping.pairs.device)
    _grouped_split_up_kernel[(grouping.max_tiles * cdiv(width, tuning.block_f),)](
        x.parts,
        x.scales,
        grouping.pairs,
        grouping.starts,
        grouping.first_tile,
        *w13.numbers,
        h,
        num_experts,
        top_k,
        dim,
        width,
        BINS=next_power_of_2(num_experts + 1),
        ROWS=grouping.rows,
        RB=w13.block[0],
        CB=w13.block[1],
        BLOCK_F=tuning.block_f,
        BLOCK_K=narrowed(tuning.up_k, w13),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
    )
    return h


def down_grouped_split(
    h: SplitRows, w2: Quantised, grouping: Grouping, dtype: torch.dtype, tuning: GroupedTuning
) -> Tensor:
    """The second product: h [P, F] in sorted order -> y [P, D] of `dtype` in the order of the pairs, not weighted."""
    num_experts, dim, width = w2.shape
    y = torch.empty(len(h.parts), dim, dtype=dtype, device=grouping.pairs.device)
    _grouped_split_down_kernel[(grouping.max_tiles * cdiv(dim, tuning.block_d),)](
        h.parts,
        h.scales,
        grouping.pairs,
        grouping.starts,
        grouping.first_tile,
        *w2.numbers,
        y,
        num_experts,
        dim,
        width,
        BINS=next_power_of_2(num_experts + 1),
        ROWS=grouping.rows,
        RB=w2.block[0],
        CB=w2.block[1],
        BLOCK_D=tuning.block_d,
        BLOCK_K=narrowed(tuning.down_k, w2),
        num_warps=tuning.down_warps or tuning.num_warps,
        num_stages=tuning.num_stages,
    )
    return y
