"""Experts of one token, plain weights: whole rows in registers, as `thin.py` reads them, in two launches.

Every program asks for all its weights at once, so that nothing but the machine's bandwidth is between it and them. The
shared expert's do not depend on the choice: by programmatic launches they are under way before it is made. The second
launch reads the choice before it waits, which is sound because the first one, having waited for the choice, is what
let it start.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.programmatic import launch_options, prefetch, wait_then_release
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl

MOST_WIDTH = 1 << 13  # of rows that registers hold


@dataclass(frozen=True, slots=True)
class SingleTuning:
    """Features of a program in the first and in the second product, and warps that share them."""

    block_f: int
    block_d: int
    num_warps: int = 4


@jit
def _up_kernel(
    x_ptr,
    ids_ptr,
    w13_ptr,
    shared_ptr,
    h_ptr,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_F: tl.constexpr,
    DIM: tl.constexpr,
    PDL: tl.constexpr,
):
    """h [k (+ 1), F] of one slot and BLOCK_F features. Slots count backwards: the shared expert, the last, is first."""
    slot = tl.num_programs(1) - 1 - tl.program_id(1)
    first = tl.program_id(0) * BLOCK_F
    is_shared = slot == top_k
    ask: tl.constexpr = PDL and SHARED and dim % 8 == 0 and width % BLOCK_F == 0  # 8 columns are at least 16 bytes
    if is_shared:
        num_bytes: tl.constexpr = BLOCK_F * dim * (x_ptr.dtype.element_ty.primitive_bitwidth // 8)
        prefetch(shared_ptr + first * dim, num_bytes, ask)
        prefetch(shared_ptr + (width + first) * dim, num_bytes, ask)
    wait_then_release(PDL)
    expert = tl.load(ids_ptr + slot, mask=slot < top_k, other=0).to(tl.int64)
    base = tl.where(is_shared, shared_ptr, w13_ptr + expert * (2 * width * dim))
    feature, col = first + tl.arange(0, BLOCK_F), tl.arange(0, DIM)
    cell = feature[:, None] * dim + col[None, :]
    if width % BLOCK_F == 0 and dim == DIM:
        w_gate = tl.load(base + cell)
        w_up = tl.load(base + width * dim + cell)
    else:
        mask = (feature < width)[:, None] & (col < dim)[None, :]
        w_gate = tl.load(base + cell, mask=mask, other=0.0)
        w_up = tl.load(base + width * dim + cell, mask=mask, other=0.0)
    x = tl.load(x_ptr + col, mask=col < dim, other=0.0).to(tl.float32)[None, :]
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    gate = tl.sum(w_gate.to(tl.float32) * x, 1).to(dtype).to(tl.float32)
    up = tl.sum(w_up.to(tl.float32) * x, 1).to(dtype).to(tl.float32)
    h = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * up
    tl.store(h_ptr + slot * width + feature, h, mask=feature < width)


@jit
def _down_kernel(
    h_ptr,
    ids_ptr,
    weights_ptr,
    w2_ptr,
    shared_ptr,
    out_ptr,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    SHARED: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [D] of BLOCK_D features: every expert's product, rounded, weighted and summed in float32."""
    slot, col = tl.arange(0, TOP_K), tl.arange(0, WIDTH)
    feature = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (feature < dim)[:, None] & (col < width)[None, :]
    cell = feature[:, None] * width + col[None, :]
    # Past the first-level cache: this program may run beside ones of the launch before.
    expert = tl.load(ids_ptr + slot, mask=slot < top_k, other=0, cache_modifier=".cg").to(tl.int64)
    at = expert[:, None, None] * (dim * width) + cell[None, :, :]
    if top_k == TOP_K and dim % BLOCK_D == 0 and width == WIDTH:
        w = tl.load(w2_ptr + at)
    else:
        w = tl.load(w2_ptr + at, mask=(slot < top_k)[:, None, None] & mask[None, :, :], other=0.0)
    if SHARED:
        w_shared = tl.load(shared_ptr + cell, mask=mask, other=0.0)
    wait_then_release(PDL)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    weight = tl.load(weights_ptr + slot, mask=slot < top_k, other=0.0)
    h_mask = (slot < top_k)[:, None] & (col < width)[None, :]
    h = tl.load(h_ptr + slot[:, None] * width + col[None, :], mask=h_mask, other=0.0).to(tl.float32)
    y = tl.sum(w.to(tl.float32) * h[:, None, :], 2).to(dtype).to(tl.float32)
    total = tl.sum(y * weight[:, None], 0)
    if SHARED:
        h_shared = tl.load(h_ptr + top_k * width + col, mask=col < width, other=0.0).to(tl.float32)
        y_shared = tl.sum(w_shared.to(tl.float32) * h_shared[None, :], 1)
        total = total.to(dtype).to(tl.float32) + y_shared.to(dtype).to(tl.float32)
    tl.store(out_ptr + feature, total, mask=feature < dim)


def fits_single(w13: object, w2: object) -> bool:
    """Whether the two launches take these weights: plain ones whose rows fit into registers."""
    return (
        isinstance(w13, Tensor) and isinstance(w2, Tensor) and w13.shape[2] <= MOST_WIDTH and w2.shape[2] <= MOST_WIDTH
    )


def moe_single(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    ids: Tensor,
    weights: Tensor,
    shared: tuple[Tensor, Tensor] | None,
    out: Tensor,
    tuning: SingleTuning | None = None,
) -> Tensor:
    """Routed and shared experts of contiguous x [1, D] -> `out` [1, D]; the shared one is as wide as the others."""
    (_, dim), width, top_k = x.shape, w2.shape[2], ids.shape[1]
    t = tuning or choose_single_tuning(top_k, dim, width, x.element_size())
    shared13, shared2 = (w13, w2) if shared is None else shared
    h = torch.empty(top_k + (shared is not None), width, dtype=x.dtype, device=x.device)
    options = {"SHARED": shared is not None, "num_warps": t.num_warps, **launch_options(x.device)}
    _up_kernel[(cdiv(width, t.block_f), len(h))](
        x, ids, w13, shared13, h, top_k, dim, width, BLOCK_F=t.block_f, DIM=next_power_of_2(dim), **options
    )
    _down_kernel[(cdiv(dim, t.block_d),)](
        h,
        ids,
        weights,
        w2,
        shared2,
        out,
        top_k,
        dim,
        width,
        TOP_K=next_power_of_2(top_k),
        BLOCK_D=t.block_d,
        WIDTH=next_power_of_2(width),
        **options,
    )
    return out


def choose_single_tuning(top_k: int, dim: int, width: int, element_bytes: int) -> SingleTuning:
    """32 KiB of bfloat16 weights a program, 64 registers of each of 128 threads, or as many weights in fp8."""
    up, down = 2 * next_power_of_2(dim), next_power_of_2(top_k) * next_power_of_2(width)
    return SingleTuning(*(max(1, min(16, 32768 // (row * element_bytes))) for row in (up, down)))
