"""Experts of many tokens: pairs are sorted by expert on the device, and each expert's rows form tiles of one product.

The sort only counts and places; nothing on the host depends on its result. Grids are sized for the worst case, and
programs behind the last tile return at once.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.quantised_tiles import (
    any_down_tile,
    any_up_tile,
    expert_at,
    format_of,
    narrowed,
    scales_at,
    storage,
)
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl
from engine.quantised import Weight

PLAN_CHUNK = 2048  # pairs that the counting program takes at once
PLACE_CHUNK = 256


@dataclass(frozen=True, slots=True)
class GroupedTuning:
    """Rows of a tile, and weight rows and columns of a tile in the two products.

    The second product takes few steps along its short inner side, so that its beginnings and ends weigh: with tiles
    and `down_warps` (0: as the first) small enough, one program's end hides behind another's products. `split` is fp8
    weights times rows in two parts by the fp8 matrix unit (`moe_grouped_split`) in place of widening them. Tiles of at
    most `tail` rows, if that is not 0, are multiplied as if they had room for no more: half of all experts end in one.
    """

    rows: int
    block_f: int
    up_k: int
    block_d: int
    down_k: int
    num_warps: int
    num_stages: int
    down_warps: int = 0
    split: bool = False
    tail: int = 0


@dataclass(frozen=True, slots=True)
class Grouping:
    """Pairs (token * k + choice) sorted by expert, and which tiles of `rows` sorted pairs each expert has.

    Expert e owns sorted positions starts[e]..starts[e + 1] and tiles first_tile[e]..first_tile[e + 1]. Pairs of one
    expert are in no particular order, which no result depends on.
    """

    pairs: Tensor  # int32 [P]
    starts: Tensor  # int32 [E + 1]
    first_tile: Tensor  # int32 [E + 1]
    rows: int
    max_tiles: int


@jit
def _plan_kernel(
    ids_ptr,
    starts_ptr,
    cursors_ptr,
    first_tile_ptr,
    num_pairs,
    num_experts: tl.constexpr,
    rows: tl.constexpr,
    BINS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Count the pairs of each expert: one program, because nothing can be placed before all are counted."""
    expert = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    for at in range(0, num_pairs, CHUNK):
        pair = at + tl.arange(0, CHUNK)
        # Places behind the last pair count as an expert behind the last one, which nobody's start depends on.
        ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=num_experts)
        counts += tl.histogram(ids.to(tl.int32), BINS)
    starts = tl.cumsum(counts, 0) - counts
    tiles = (counts + rows - 1) // rows
    first_tile = tl.cumsum(tiles, 0) - tiles
    tl.store(starts_ptr + expert, starts, mask=expert <= num_experts)
    tl.store(first_tile_ptr + expert, first_tile, mask=expert <= num_experts)
    tl.store(cursors_ptr + expert, starts, mask=expert < num_experts)


@jit
def _place_kernel(ids_ptr, cursors_ptr, pairs_ptr, num_pairs, CHUNK: tl.constexpr):
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    mask = pair < num_pairs
    expert = tl.load(ids_ptr + pair, mask=mask, other=0)
    position = tl.atomic_add(cursors_ptr + expert, 1, mask=mask, sem="relaxed")
    tl.store(pairs_ptr + position, pair, mask=mask)


def group_pairs(ids: Tensor, num_experts: int, rows: int) -> Grouping:
    """Sort the pairs of contiguous int64 `ids` [T, k] by expert: two launches, no host synchronisation."""
    num_pairs = ids.numel()
    pairs = torch.empty(num_pairs, dtype=torch.int32, device=ids.device)
    starts, first_tile, cursors = torch.empty(3, num_experts + 1, dtype=torch.int32, device=ids.device).unbind()
    bins = next_power_of_2(num_experts + 1)
    _plan_kernel[(1,)](
        ids, starts, cursors, first_tile, num_pairs, num_experts, rows, BINS=bins, CHUNK=PLAN_CHUNK, num_warps=8
    )
    _place_kernel[(cdiv(num_pairs, PLACE_CHUNK),)](ids, cursors, pairs, num_pairs, CHUNK=PLACE_CHUNK)
    # Every expert that is used can leave its last tile nearly empty.
    max_tiles = (num_pairs + min(num_pairs, num_experts) * (rows - 1)) // rows
    return Grouping(pairs, starts, first_tile, rows, max_tiles)


@jit
def _find_tile(tile, starts_ptr, first_tile_ptr, num_experts: tl.constexpr, BINS: tl.constexpr, ROWS: tl.constexpr):
    """-> expert (num_experts behind the last tile), the tile's first sorted position, and the expert's end."""
    index = tl.arange(0, BINS)
    first_tile = tl.load(first_tile_ptr + index, mask=index <= num_experts, other=2147483647)
    expert = tl.sum((first_tile <= tile).to(tl.int32), 0) - 1
    safe = tl.minimum(expert, num_experts - 1)
    start = tl.load(starts_ptr + safe) + (tile - tl.load(first_tile_ptr + safe)) * ROWS
    return expert, start, tl.load(starts_ptr + safe + 1)


@jit
def _up_kernel(
    x_ptr,
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
    TAIL: tl.constexpr,
    FORMAT: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """h [P, F] in sorted order. Programs of one tile are neighbours, so that its rows are read from L2 but once."""
    blocks: tl.constexpr = (width + BLOCK_F - 1) // BLOCK_F
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    expert, start, end = _find_tile(tile, starts_ptr, first_tile_ptr, num_experts, BINS, ROWS)
    if expert >= num_experts:
        return
    w_ptr = expert_at(w13_ptr, expert, 2 * width, dim, FORMAT)
    s_ptr = scales_at(scales_ptr, expert, 2 * width, dim, FORMAT, RB, CB)
    first = block * BLOCK_F
    if TAIL > 0:  # noqa: SIM102 a constant and a number do not go together
        if end - start <= TAIL:
            _up_rows(
                x_ptr, pairs_ptr, w_ptr, s_ptr, h_ptr, start, end, first, top_k, dim, width,
                TAIL, FORMAT, RB, CB, BLOCK_F, BLOCK_K,
            )  # fmt: skip
            return
    _up_rows(
        x_ptr, pairs_ptr, w_ptr, s_ptr, h_ptr, start, end, first, top_k, dim, width,
        ROWS, FORMAT, RB, CB, BLOCK_F, BLOCK_K,
    )  # fmt: skip


@jit
def _up_rows(
    x_ptr, pairs_ptr, w_ptr, s_ptr, h_ptr, start, end, first, top_k: tl.constexpr, dim: tl.constexpr,
    width: tl.constexpr, ROWS: tl.constexpr, FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
    BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The sorted positions from `start` on, at most ROWS of them and none from `end` on."""
    row = start + tl.arange(0, ROWS)
    exists = row < end
    token = (tl.load(pairs_ptr + row, mask=exists, other=0) // top_k).to(tl.int64)
    h = any_up_tile(w_ptr, s_ptr, x_ptr, token, exists, first, dim, width, FORMAT, ROWS, BLOCK_F, BLOCK_K, RB, CB)
    feature = first + tl.arange(0, BLOCK_F)
    mask = (feature < width)[:, None] & exists[None, :]
    tl.store(h_ptr + row.to(tl.int64)[None, :] * width + feature[:, None], h, mask=mask)


@jit
def _down_kernel(
    h_ptr,
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
    TAIL: tl.constexpr,
    FORMAT: tl.constexpr,
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
    w_ptr = expert_at(w2_ptr, expert, dim, width, FORMAT)
    s_ptr = scales_at(scales_ptr, expert, dim, width, FORMAT, RB, CB)
    first = block * BLOCK_D
    if TAIL > 0:  # noqa: SIM102 a constant and a number do not go together
        if end - start <= TAIL:
            _down_rows(
                h_ptr, pairs_ptr, w_ptr, s_ptr, y_ptr, start, end, first, dim, width,
                TAIL, FORMAT, RB, CB, BLOCK_D, BLOCK_K,
            )  # fmt: skip
            return
    _down_rows(
        h_ptr, pairs_ptr, w_ptr, s_ptr, y_ptr, start, end, first, dim, width,
        ROWS, FORMAT, RB, CB, BLOCK_D, BLOCK_K,
    )  # fmt: skip


@jit
def _down_rows(
    h_ptr, pairs_ptr, w_ptr, s_ptr, y_ptr, start, end, first, dim: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The same."""
    row = start + tl.arange(0, ROWS)
    exists, rows = row < end, row.to(tl.int64)
    y = any_down_tile(w_ptr, s_ptr, h_ptr, rows, exists, first, dim, width, FORMAT, ROWS, BLOCK_D, BLOCK_K, RB, CB)
    feature = first + tl.arange(0, BLOCK_D)
    pair = tl.load(pairs_ptr + row, mask=exists, other=0).to(tl.int64)
    mask = (feature < dim)[:, None] & exists[None, :]
    tl.store(y_ptr + pair[None, :] * dim + feature[:, None], y, mask=mask)


def up_grouped(x: Tensor, w13: Weight, grouping: Grouping, top_k: int, tuning: GroupedTuning) -> Tensor:
    """The first product of contiguous x [T, D]: -> h [P, F] in sorted order."""
    num_experts, double_width, dim = w13.shape
    width = double_width // 2
    h = torch.empty(len(grouping.pairs), width, dtype=x.dtype, device=x.device)
    _up_kernel[(grouping.max_tiles * cdiv(width, tuning.block_f),)](
        x,
        grouping.pairs,
        grouping.starts,
        grouping.first_tile,
        *storage(w13),
        h,
        num_experts,
        top_k,
        dim,
        width,
        BINS=next_power_of_2(num_experts + 1),
        ROWS=grouping.rows,
        TAIL=tuning.tail,
        **format_of(w13),
        BLOCK_F=tuning.block_f,
        BLOCK_K=narrowed(tuning.up_k, w13),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
    )
    return h


def down_grouped(h: Tensor, w2: Weight, grouping: Grouping, tuning: GroupedTuning) -> Tensor:
    """The second product: h [P, F] in sorted order -> y [P, D] in the order of the pairs, not yet weighted."""
    num_experts, dim, width = w2.shape
    y = torch.empty(h.shape[0], dim, dtype=h.dtype, device=h.device)
    _down_kernel[(grouping.max_tiles * cdiv(dim, tuning.block_d),)](
        h,
        grouping.pairs,
        grouping.starts,
        grouping.first_tile,
        *storage(w2),
        y,
        num_experts,
        dim,
        width,
        BINS=next_power_of_2(num_experts + 1),
        ROWS=grouping.rows,
        TAIL=tuning.tail,
        **format_of(w2),
        BLOCK_D=tuning.block_d,
        BLOCK_K=narrowed(tuning.down_k, w2),
        num_warps=tuning.down_warps or tuning.num_warps,
        num_stages=tuning.num_stages,
    )
    return y
