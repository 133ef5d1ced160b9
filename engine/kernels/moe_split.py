"""Experts of some tokens with fp8 weights, by the fp8 matrix unit: `moe_few` without widening a weight.

Slots, gathering and the shared expert are those of `moe_few`; the rows come in two parts (`split_rows`), and tiles have
64 weight rows or a multiple, which is what the matrix unit of one warpgroup multiplies at once. The first product
writes down which rows each slot has, because the second one is short: looking for them took as long as multiplying.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.moe_few import (
    MOST_ROWS,
    FewTuning,
    _assigned,
    _gathered,
    _layout,
    _num_rows,
    _num_slots,
    _pick,
)
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.quantised_tiles import expert_at, narrowed, scales_at
from engine.kernels.split_rows import SplitRows
from engine.kernels.split_tiles import split_product, split_up_tile
from engine.kernels.triton_support import cdiv, jit, tl
from engine.quantised import Quantised


@jit
def _up_rows(
    x_ptr, xs_ptr, w_ptr, s_ptr, h_ptr, token, row, first, dim: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    token = tl.where(row >= 0, token, -1).to(tl.int64)
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    h = split_up_tile(w_ptr, s_ptr, x_ptr, xs_ptr, token, first, dim, width, dtype, ROWS, BLOCK_F, BLOCK_K, RB, CB)
    feature = first + tl.arange(0, BLOCK_F)
    mask = (feature < width)[:, None] & (row >= 0)[None, :]
    tl.store(h_ptr + row.to(tl.int64)[None, :] * width + feature[:, None], h, mask=mask)


@jit
def _write_plan(plan_ptr, slot, expert, row, busy, ROWS: tl.constexpr):
    """What `slot` has to do, ROWS + 2 numbers: its expert, how many rows it has (0: nothing to do), and those rows."""
    chosen = ((row >= 0) & busy).to(tl.int32)
    plan_ptr += slot * (ROWS + 2)
    tl.store(plan_ptr, expert)
    tl.store(plan_ptr + 1, tl.sum(chosen, 0))
    tl.store(plan_ptr + 1 + tl.cumsum(chosen, 0), row, mask=chosen > 0)


@jit
def _split_up_kernel(
    x_ptr,
    xs_ptr,
    ids_ptr,
    w13_ptr,
    scales_ptr,
    shared_ptr,
    shared_scales_ptr,
    h_ptr,
    plan_ptr,
    num_tokens,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    BY_EXPERT: tl.constexpr,
    SHARED: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """h [T * k (+ T), F] of one slot and BLOCK_F features, and the plan [slots, ROWS + 2] of the second product."""
    wait_then_release(PDL)
    slot = tl.num_programs(0) - 1 - tl.program_id(0)  # the shared expert, the longest, first
    expert, row, busy, is_shared = _assigned(
        ids_ptr, slot, tl.num_programs(0), num_tokens, top_k, TOP_K, ROWS, BY_EXPERT, SHARED
    )
    if tl.program_id(1) == 0:
        _write_plan(plan_ptr, slot, expert, row, busy, ROWS)
    if not busy:
        return
    first = tl.program_id(1) * BLOCK_F
    w_ptr = expert_at(w13_ptr, expert, 2 * width, dim, "fp8")
    s_ptr = scales_at(scales_ptr, expert, 2 * width, dim, "fp8", RB, CB)
    if SHARED:
        w_ptr, s_ptr = _pick(w_ptr, shared_ptr, is_shared), _pick(s_ptr, shared_scales_ptr, is_shared)
    if TILE >= ROWS:
        token = tl.arange(0, ROWS)
        _up_rows(x_ptr, xs_ptr, w_ptr, s_ptr, h_ptr, token, row, first, dim, width, ROWS, RB, CB, BLOCK_F, BLOCK_K)
    else:
        chosen = (row >= 0).to(tl.int32)
        rank = tl.cumsum(chosen, 0) - 1
        for at in range(0, tl.sum(chosen, 0), TILE):
            token, some = _gathered(row, rank, at, ROWS, TILE)
            _up_rows(x_ptr, xs_ptr, w_ptr, s_ptr, h_ptr, token, some, first, dim, width, TILE, RB, CB, BLOCK_F, BLOCK_K)


@jit
def _split_down_kernel(
    h_ptr,
    hs_ptr,
    plan_ptr,
    w2_ptr,
    scales_ptr,
    shared_ptr,
    shared_scales_ptr,
    y_ptr,
    dim: tl.constexpr,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    SHARED: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """y [T * k (+ T), D] of one slot and BLOCK_D features."""
    wait_then_release(PDL)
    slot = tl.num_programs(0) - 1 - tl.program_id(0)
    plan_ptr += slot * (ROWS + 2)
    expert, num_rows = tl.load(plan_ptr), tl.load(plan_ptr + 1)
    if num_rows == 0:
        return
    first = tl.program_id(1) * BLOCK_D
    w_ptr = expert_at(w2_ptr, expert, dim, width, "fp8")
    s_ptr = scales_at(scales_ptr, expert, dim, width, "fp8", RB, CB)
    if SHARED:
        is_shared = slot == tl.num_programs(0) - 1
        w_ptr, s_ptr = _pick(w_ptr, shared_ptr, is_shared), _pick(s_ptr, shared_scales_ptr, is_shared)
    feature = first + tl.arange(0, BLOCK_D)
    for at in range(0, num_rows, TILE):
        place = at + tl.arange(0, TILE)
        row = tl.load(plan_ptr + 2 + place, mask=place < num_rows, other=-1).to(tl.int64)
        y = split_product(w_ptr, s_ptr, h_ptr, hs_ptr, row, first, 0, width, dim, width, TILE, BLOCK_D, BLOCK_K, RB, CB)
        mask = (feature < dim)[:, None] & (row >= 0)[None, :]
        tl.store(y_ptr + row[None, :] * dim + feature[:, None], y, mask=mask)


def up_split(
    x: SplitRows, w13: Quantised, shared: Quantised | None, ids: Tensor, dtype: torch.dtype, tuning: FewTuning
) -> tuple[Tensor, Tensor]:
    """The first product of x [T, D]: -> h [T * k, F] in `dtype`, with the shared expert's T rows behind them, and plan.

    That, int32 [slots, ROWS + 2], is what `down_split` does for the same choice.
    """
    num_tokens, _, dim = x.parts.shape
    num_experts, width = w13.shape[0], w13.shape[1] // 2
    layout, num_slots = _layout(ids, num_experts, shared), _num_slots(ids, num_experts, shared)
    h = torch.empty(_num_rows(ids, shared), width, dtype=dtype, device=ids.device)
    plan = torch.empty(num_slots, layout["ROWS"] + 2, dtype=torch.int32, device=ids.device)
    _split_up_kernel[(num_slots, cdiv(width, tuning.block_f))](
        x.parts,
        x.scales,
        ids,
        *w13.numbers,
        *(w13 if shared is None else shared).numbers,
        h,
        plan,
        num_tokens,
        ids.shape[1],
        dim,
        width,
        **layout,
        **_blocks(w13),
        TILE=tuning.rows or MOST_ROWS,
        BLOCK_F=tuning.block_f,
        BLOCK_K=narrowed(tuning.up_k, w13),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
        **_registers(tuning),
        **launch_options(ids.device),
    )
    return h, plan


def down_split(
    h: SplitRows, w2: Quantised, shared: Quantised | None, plan: Tensor, dtype: torch.dtype, tuning: FewTuning
) -> Tensor:
    """The second product: h [T * k (+ T), F] by the first one's plan -> y [T * k (+ T), D] in `dtype`, not weighted."""
    _, dim, width = w2.shape
    num_slots, rows = plan.shape[0], plan.shape[1] - 2
    y = torch.empty(len(h.parts), dim, dtype=dtype, device=plan.device)
    _split_down_kernel[(num_slots, cdiv(dim, tuning.block_d))](
        h.parts,
        h.scales,
        plan,
        *w2.numbers,
        *(w2 if shared is None else shared).numbers,
        y,
        dim,
        width,
        ROWS=rows,
        SHARED=shared is not None,
        **_blocks(w2),
        TILE=min(rows, tuning.rows or rows),
        BLOCK_D=tuning.block_d,
        BLOCK_K=narrowed(tuning.down_k, w2),
        num_warps=tuning.down_warps or tuning.num_warps,
        num_stages=tuning.down_stages or tuning.num_stages,
        **_registers(tuning),
        **launch_options(plan.device),
    )
    return y


def _registers(tuning: FewTuning) -> dict[str, int]:
    return {"maxnreg": tuning.registers} if tuning.registers else {}


def _blocks(weight: Quantised) -> dict[str, int]:
    return {"RB": weight.block[0], "CB": weight.block[1]}
