"""Experts of a few tokens: bound by reading weights, so every expert that anybody chose is read exactly once.

The rows of a tile are the tokens themselves, whether they chose the expert or not: nothing has to be sorted, and no
launch waits for another's bookkeeping. Packed weights, which cost instructions to widen, are multiplied with those
tokens alone that chose the expert, gathered by the program itself, 16 at a time. The shared expert is one more expert
that every token chose.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.quantised_tiles import (
    any_down_tile,
    any_up_tile,
    expert_at,
    format_of,
    narrowed,
    scales_at,
    shared_format_of,
    storage,
    widen,
)
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl
from engine.quantised import Weight

MOST_ROWS = 1 << 16  # of a tile that holds all tokens
SINGLE_ROWS = 16  # weight rows of a program of the single token's second product


@dataclass(frozen=True, slots=True)
class FewTuning:
    """Weight rows and columns of a tile in the two products.

    `rows` tokens that chose the expert are multiplied at once; 0 is all tokens, those that did not choose it included.
    `split` is fp8 weights times rows in two parts by the fp8 matrix unit (`moe_split`) in place of widening them, where
    the second product may have `down_warps` of its own; it always may have `down_stages` (0: as the first). A thread
    has at most `registers` so that a multiprocessor holds as many programs as its shared memory does (0: as many as it
    takes).
    """

    block_f: int
    up_k: int
    block_d: int
    down_k: int
    num_warps: int = 4
    num_stages: int = 4
    rows: int = 0
    split: bool = False
    down_warps: int = 0
    down_stages: int = 0
    registers: int = 0


@jit
def _assigned(
    ids_ptr, slot, num_slots, num_tokens, top_k: tl.constexpr, TOP_K: tl.constexpr, ROWS: tl.constexpr,
    BY_EXPERT: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Who is served at `slot`: the expert, each token's row [ROWS] of the pairs (-1: not chosen), and if there is work.

    A slot is an expert, or a (token, choice) pair where those are fewer; then the first pair of an expert does the
    work of all. The last slot is the shared expert's, whose rows lie behind the pairs.
    """
    token, choice = tl.arange(0, ROWS), tl.arange(0, TOP_K)[None, :]
    pair = token[:, None] * top_k + choice
    exists = (token < num_tokens)[:, None] & (choice < top_k)
    ids = tl.load(ids_ptr + pair, mask=exists, other=-1).to(tl.int32)
    is_shared = slot == num_slots - 1
    if BY_EXPERT:
        expert = slot
    else:
        expert = tl.load(ids_ptr + slot, mask=slot < num_tokens * top_k, other=0).to(tl.int32)
    row = tl.max(tl.where(exists & (ids == expert), pair, -1), 1)
    first = tl.min(tl.where(row >= 0, row, num_tokens * top_k), 0)
    if BY_EXPERT:
        busy = first < num_tokens * top_k
    else:
        busy = first == slot
    if SHARED:
        row = tl.where(is_shared, tl.where(token < num_tokens, num_tokens * top_k + token, -1), row)
        busy = busy | is_shared
    return expert, row, busy, is_shared


@jit
def _pick(routed_ptr, shared_ptr, is_shared):
    """Where the weights, or the scales, of this program begin."""
    return tl.where(is_shared, shared_ptr, routed_ptr)


@jit
def _gathered(row, rank, at, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Chosen tokens at..at + TILE of those whose `rank` among the chosen counts: -> tokens and their rows, -1: none."""
    here = (row >= 0)[:, None] & (rank[:, None] == at + tl.arange(0, TILE)[None, :])
    token = tl.max(tl.where(here, tl.arange(0, ROWS)[:, None], -1), 0)
    return token, tl.max(tl.where(here, row[:, None], -1), 0)


@jit
def _up_chosen(
    x_ptr, w_ptr, s_ptr, h_ptr, row, first, dim: tl.constexpr, width: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
    BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """h of all tokens that chose the expert, for BLOCK_F features."""
    if TILE >= ROWS:
        token = tl.arange(0, ROWS)
        _up_rows(x_ptr, w_ptr, s_ptr, h_ptr, token, row, first, dim, width, ROWS, FORMAT, RB, CB, BLOCK_F, BLOCK_K)
    else:
        chosen = (row >= 0).to(tl.int32)
        rank = tl.cumsum(chosen, 0) - 1
        for at in range(0, tl.sum(chosen, 0), TILE):
            token, some = _gathered(row, rank, at, ROWS, TILE)
            _up_rows(x_ptr, w_ptr, s_ptr, h_ptr, token, some, first, dim, width, TILE, FORMAT, RB, CB, BLOCK_F, BLOCK_K)


@jit
def _up_rows(
    x_ptr, w_ptr, s_ptr, h_ptr, token, row, first, dim: tl.constexpr, width: tl.constexpr, ROWS: tl.constexpr,
    FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    h = any_up_tile(
        w_ptr, s_ptr, x_ptr, token.to(tl.int64), row >= 0, first, dim, width, FORMAT, ROWS, BLOCK_F, BLOCK_K, RB, CB
    )
    feature = first + tl.arange(0, BLOCK_F)
    mask = (feature < width)[:, None] & (row >= 0)[None, :]
    tl.store(h_ptr + row.to(tl.int64)[None, :] * width + feature[:, None], h, mask=mask)


@jit
def _down_chosen(
    h_ptr, w_ptr, s_ptr, y_ptr, row, first, dim: tl.constexpr, width: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr, FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y of all tokens that chose the expert, for BLOCK_D features."""
    if TILE >= ROWS:
        _down_rows(h_ptr, w_ptr, s_ptr, y_ptr, row, first, dim, width, ROWS, FORMAT, RB, CB, BLOCK_D, BLOCK_K)
    else:
        chosen = (row >= 0).to(tl.int32)
        rank = tl.cumsum(chosen, 0) - 1
        for at in range(0, tl.sum(chosen, 0), TILE):
            _token, some = _gathered(row, rank, at, ROWS, TILE)
            _down_rows(h_ptr, w_ptr, s_ptr, y_ptr, some, first, dim, width, TILE, FORMAT, RB, CB, BLOCK_D, BLOCK_K)


@jit
def _down_rows(
    h_ptr, w_ptr, s_ptr, y_ptr, row, first, dim: tl.constexpr, width: tl.constexpr, ROWS: tl.constexpr,
    FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = row.to(tl.int64)
    y = any_down_tile(w_ptr, s_ptr, h_ptr, row, row >= 0, first, dim, width, FORMAT, ROWS, BLOCK_D, BLOCK_K, RB, CB)
    feature = first + tl.arange(0, BLOCK_D)
    mask = (feature < dim)[:, None] & (row >= 0)[None, :]
    tl.store(y_ptr + row[None, :] * dim + feature[:, None], y, mask=mask)


@jit
def _up_kernel(
    x_ptr,
    ids_ptr,
    w13_ptr,
    scales_ptr,
    shared_ptr,
    shared_scales_ptr,
    h_ptr,
    num_tokens,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    BY_EXPERT: tl.constexpr,
    SHARED: tl.constexpr,
    FORMAT: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    SHARED_FORMAT: tl.constexpr,
    SHARED_RB: tl.constexpr,
    SHARED_CB: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """h [T * k (+ T), F] of one slot and BLOCK_F features."""
    wait_then_release(PDL)
    slot = tl.program_id(0)
    expert, row, busy, is_shared = _assigned(
        ids_ptr, slot, tl.num_programs(0), num_tokens, top_k, TOP_K, ROWS, BY_EXPERT, SHARED
    )
    if not busy:
        return
    first = tl.program_id(1) * BLOCK_F
    w_ptr = expert_at(w13_ptr, expert, 2 * width, dim, FORMAT)
    s_ptr = scales_at(scales_ptr, expert, 2 * width, dim, FORMAT, RB, CB)
    if SHARED and SHARED_FORMAT != FORMAT:
        if is_shared:
            _up_chosen(
                x_ptr, shared_ptr, shared_scales_ptr, h_ptr, row, first, dim, width,
                ROWS, TILE, SHARED_FORMAT, SHARED_RB, SHARED_CB, BLOCK_F, BLOCK_K,
            )  # fmt: skip
        else:
            _up_chosen(
                x_ptr, w_ptr, s_ptr, h_ptr, row, first, dim, width,
                ROWS, TILE, FORMAT, RB, CB, BLOCK_F, BLOCK_K,
            )  # fmt: skip
    else:
        if SHARED:
            w_ptr, s_ptr = _pick(w_ptr, shared_ptr, is_shared), _pick(s_ptr, shared_scales_ptr, is_shared)
        _up_chosen(
            x_ptr, w_ptr, s_ptr, h_ptr, row, first, dim, width,
            ROWS, TILE, FORMAT, RB, CB, BLOCK_F, BLOCK_K,
        )  # fmt: skip


@jit
def _down_kernel(
    h_ptr,
    ids_ptr,
    w2_ptr,
    scales_ptr,
    shared_ptr,
    shared_scales_ptr,
    y_ptr,
    num_tokens,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    BY_EXPERT: tl.constexpr,
    SHARED: tl.constexpr,
    FORMAT: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    SHARED_FORMAT: tl.constexpr,
    SHARED_RB: tl.constexpr,
    SHARED_CB: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """y [T * k (+ T), D] of one slot and BLOCK_D features."""
    wait_then_release(PDL)
    slot = tl.program_id(0)
    expert, row, busy, is_shared = _assigned(
        ids_ptr, slot, tl.num_programs(0), num_tokens, top_k, TOP_K, ROWS, BY_EXPERT, SHARED
    )
    if not busy:
        return
    first = tl.program_id(1) * BLOCK_D
    w_ptr = expert_at(w2_ptr, expert, dim, width, FORMAT)
    s_ptr = scales_at(scales_ptr, expert, dim, width, FORMAT, RB, CB)
    if SHARED and SHARED_FORMAT != FORMAT:
        if is_shared:
            _down_chosen(
                h_ptr, shared_ptr, shared_scales_ptr, y_ptr, row, first, dim, width,
                ROWS, TILE, SHARED_FORMAT, SHARED_RB, SHARED_CB, BLOCK_D, BLOCK_K,
            )  # fmt: skip
        else:
            _down_chosen(
                h_ptr, w_ptr, s_ptr, y_ptr, row, first, dim, width,
                ROWS, TILE, FORMAT, RB, CB, BLOCK_D, BLOCK_K,
            )  # fmt: skip
    else:
        if SHARED:
            w_ptr, s_ptr = _pick(w_ptr, shared_ptr, is_shared), _pick(s_ptr, shared_scales_ptr, is_shared)
        _down_chosen(
            h_ptr, w_ptr, s_ptr, y_ptr, row, first, dim, width,
            ROWS, TILE, FORMAT, RB, CB, BLOCK_D, BLOCK_K,
        )  # fmt: skip


@jit
def _single_down_kernel(
    h_ptr,
    ids_ptr,
    weights_ptr,
    w2_ptr,
    scales_ptr,
    shared_ptr,
    shared_scales_ptr,
    out_ptr,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    SHARED: tl.constexpr,
    FORMAT: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    """The second product and the weighted sum of one token: a program walks through its experts."""
    wait_then_release(PDL)
    first, col = tl.program_id(0) * BLOCK_D, tl.arange(0, BLOCK_K)
    feature = first + tl.arange(0, BLOCK_D)
    mask = (feature < dim)[:, None] & (col < width)[None, :]
    cell = feature[:, None] * width + col[None, :]
    dtype = out_ptr.dtype.element_ty
    total = tl.zeros([BLOCK_D], tl.float32)
    for slot in tl.range(top_k, num_stages=STAGES):
        expert = tl.load(ids_ptr + slot).to(tl.int64)
        w = tl.load(w2_ptr + expert * (dim * width) + cell, mask=mask, other=0.0)
        h = tl.load(h_ptr + slot * width + col, mask=col < width, other=0.0)
        scales = scales_at(scales_ptr, expert, dim, width, FORMAT, RB, CB)
        y = _single_dot(w, h, scales, first, col, width, FORMAT, RB, CB).to(dtype).to(tl.float32)
        total += y * tl.load(weights_ptr + slot)
    total = total.to(dtype).to(tl.float32)
    if SHARED:
        w = tl.load(shared_ptr + cell, mask=mask, other=0.0)
        h = tl.load(h_ptr + top_k * width + col, mask=col < width, other=0.0)
        y = _single_dot(w, h, shared_scales_ptr, first, col, width, FORMAT, RB, CB)
        total += y.to(dtype).to(tl.float32)
    tl.store(out_ptr + feature, total, mask=feature < dim)


@jit
def _single_dot(w, h, s_ptr, first, col, width: tl.constexpr, FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr):
    """w [BLOCK_D, BLOCK_K] times h [BLOCK_K]; the rows, from `first` on, lie in one block of scales."""
    h = h.to(tl.float32)
    if FORMAT == "fp8":
        blocks: tl.constexpr = (width + CB - 1) // CB
        h *= tl.load(s_ptr + (first // RB) * blocks + col // CB, mask=col < width, other=0.0)
        w = widen(w, tl.float32)
    return tl.sum(w.to(tl.float32) * h[None, :], 1)


def up_few(x: Tensor, w13: Weight, shared: Weight | None, ids: Tensor, tuning: FewTuning) -> Tensor:
    """The first product of contiguous x [T, D]: -> h [T * k, F], with the shared expert's T rows behind them."""
    num_tokens, dim = x.shape
    num_experts, width = w13.shape[0], w13.shape[1] // 2
    h = torch.empty(_num_rows(ids, shared), width, dtype=x.dtype, device=x.device)
    _up_kernel[(_num_slots(ids, num_experts, shared), cdiv(width, tuning.block_f))](
        x,
        ids,
        *storage(w13),
        *storage(w13 if shared is None else shared),
        h,
        num_tokens,
        ids.shape[1],
        dim,
        width,
        **_layout(ids, num_experts, shared),
        **format_of(w13),
        **shared_format_of(w13 if shared is None else shared),
        TILE=tuning.rows or MOST_ROWS,
        BLOCK_F=tuning.block_f,
        BLOCK_K=narrowed(tuning.up_k, w13),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
        **launch_options(x.device),
    )
    return h


def down_few(h: Tensor, w2: Weight, shared: Weight | None, ids: Tensor, tuning: FewTuning) -> Tensor:
    """The second product: h [T * k (+ T), F] -> y [T * k (+ T), D], not yet weighted."""
    num_experts, dim, width = w2.shape
    y = torch.empty(h.shape[0], dim, dtype=h.dtype, device=h.device)
    _down_kernel[(_num_slots(ids, num_experts, shared), cdiv(dim, tuning.block_d))](
        h,
        ids,
        *storage(w2),
        *storage(w2 if shared is None else shared),
        y,
        ids.shape[0],
        ids.shape[1],
        dim,
        width,
        **_layout(ids, num_experts, shared),
        **format_of(w2),
        **shared_format_of(w2 if shared is None else shared),
        TILE=tuning.rows or MOST_ROWS,
        BLOCK_D=tuning.block_d,
        BLOCK_K=narrowed(tuning.down_k, w2),
        num_warps=tuning.num_warps,
        num_stages=tuning.down_stages or tuning.num_stages,
        **launch_options(h.device),
    )
    return y


def down_single(
    h: Tensor,
    w2: Weight,
    shared: Weight | None,
    ids: Tensor,
    weights: Tensor,
    out: Tensor,
    block_d: int = SINGLE_ROWS,
    num_stages: int = 3,
) -> Tensor:
    """The second product of one token and its weighted sum: h [k (+ 1), F] -> `out` [1, D]."""
    _, dim, width = w2.shape
    _single_down_kernel[(cdiv(dim, block_d),)](
        h,
        ids,
        weights,
        *storage(w2),
        *storage(w2 if shared is None else shared),
        out,
        ids.shape[1],
        dim,
        width,
        SHARED=shared is not None,
        **format_of(w2),
        BLOCK_D=block_d,
        BLOCK_K=next_power_of_2(width),
        STAGES=num_stages,
        **launch_options(h.device),
    )
    return out


def _layout(ids: Tensor, num_experts: int, shared: Weight | None) -> dict[str, int | bool]:
    num_tokens, top_k = ids.shape
    return {
        "TOP_K": next_power_of_2(top_k),
        "ROWS": max(16, next_power_of_2(num_tokens)),
        "BY_EXPERT": ids.numel() > num_experts,
        "SHARED": shared is not None,
    }


def _num_slots(ids: Tensor, num_experts: int, shared: Weight | None) -> int:
    return min(ids.numel(), num_experts) + (shared is not None)


def _num_rows(ids: Tensor, shared: Weight | None) -> int:
    return ids.numel() + (0 if shared is None else ids.shape[0])
