"""Experts of one token with fp8 weights: the two launches of `moe_single`, with bytes in registers.

Half the bytes of plain weights and more instructions for each: what a program holds is as many weights, not bytes.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.fp8_rows import RUN, in_runs, lies_in_runs, load_runs, num_runs, run_scales, run_sums
from engine.kernels.moe_single import MOST_WIDTH, SingleTuning, choose_single_tuning
from engine.kernels.programmatic import launch_options, prefetch, release, wait, wait_then_release
from engine.kernels.quantised_tiles import scales_at
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl
from engine.quantised import LEAST_BLOCK, Quantised, Weight


@jit
def _single_fp8_up_kernel(
    x_ptr,
    ids_ptr,
    w13_ptr,
    scales_ptr,
    shared_ptr,
    shared_scales_ptr,
    h_ptr,
    top_k: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_F: tl.constexpr,
    RUNS: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """h [k (+ 1), F] of one slot and BLOCK_F features. Slots count backwards: the shared expert, the last, is first."""
    slot = tl.num_programs(1) - 1 - tl.program_id(1)
    first = tl.program_id(0) * BLOCK_F
    is_shared = slot == top_k
    ask: tl.constexpr = PDL and SHARED and dim % 16 == 0 and width % BLOCK_F == 0
    if is_shared:
        prefetch(shared_ptr + first * dim, BLOCK_F * dim, ask)
        prefetch(shared_ptr + (width + first) * dim, BLOCK_F * dim, ask)
    wait(PDL)
    x = load_runs(x_ptr, 1, dim, 1, RUNS)[None, :, :]
    expert = tl.load(ids_ptr + slot, mask=slot < top_k, other=0).to(tl.int64)
    w_ptr = tl.where(is_shared, shared_ptr, w13_ptr + expert * (2 * width * dim))
    s_ptr = tl.where(is_shared, shared_scales_ptr, scales_at(scales_ptr, expert, 2 * width, dim, "fp8", RB, CB))
    feature, col = first + tl.arange(0, BLOCK_F), tl.arange(0, WIDTH)
    cell = feature[:, None] * dim + col[None, :]
    if width % BLOCK_F == 0 and dim == WIDTH:
        w_gate = tl.load(w_ptr + cell)
        w_up = tl.load(w_ptr + width * dim + cell)
    else:
        mask = (feature < width)[:, None] & (col < dim)[None, :]
        w_gate = tl.load(w_ptr + cell, mask=mask, other=0)
        w_up = tl.load(w_ptr + width * dim + cell, mask=mask, other=0)
    w_gate, w_up = in_runs(w_gate, BLOCK_F, RUNS), in_runs(w_up, BLOCK_F, RUNS)
    s_gate = run_scales(s_ptr, first // RB, dim, CB, RUNS)
    s_up = run_scales(s_ptr, (width + first) // RB, dim, CB, RUNS)
    release(PDL)
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    gate = tl.sum(run_sums(w_gate, x) * s_gate[None, :], 1).to(dtype).to(tl.float32)
    up = tl.sum(run_sums(w_up, x) * s_up[None, :], 1).to(dtype).to(tl.float32)
    h = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * up
    tl.store(h_ptr + slot * width + feature, h, mask=feature < width)


@jit
def _single_fp8_down_kernel(
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
    RB: tl.constexpr,
    CB: tl.constexpr,
    SHARED: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RUNS: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """out [D] of BLOCK_D features: every expert's product, rounded, weighted and summed in float32.

    A feature's rows of all experts are side by side, so that warps divide the experts and a thread keeps little of h.
    """
    first = tl.program_id(0) * BLOCK_D
    row, col = tl.arange(0, BLOCK_D * TOP_K), tl.arange(0, WIDTH)
    slot, feature = tl.arange(0, TOP_K), first + tl.arange(0, BLOCK_D)
    # Past the first-level cache: this program may run beside ones of the launch before.
    expert = tl.load(ids_ptr + row % TOP_K, mask=row % TOP_K < top_k, other=0, cache_modifier=".cg").to(tl.int64)
    at = expert[:, None] * (dim * width) + (first + row // TOP_K)[:, None] * width + col[None, :]
    if top_k == TOP_K and dim % BLOCK_D == 0 and width == WIDTH:
        w = tl.load(w2_ptr + at)
    else:
        exists = (row % TOP_K < top_k) & (first + row // TOP_K < dim)
        w = tl.load(w2_ptr + at, mask=exists[:, None] & (col < width)[None, :], other=0)
    w = tl.reshape(w, (BLOCK_D, TOP_K, RUNS, RUN))
    if SHARED:
        mask = (feature < dim)[:, None] & (col < width)[None, :]
        w_shared = tl.load(shared_ptr + feature[:, None] * width + col[None, :], mask=mask, other=0)
        w_shared = in_runs(w_shared, BLOCK_D, RUNS)
        shared_scales = run_scales(shared_scales_ptr, first // RB, width, CB, RUNS)
    chosen = tl.load(ids_ptr + slot, mask=slot < top_k, other=0, cache_modifier=".cg")
    scales = run_scales(scales_at(scales_ptr, chosen, dim, width, "fp8", RB, CB)[:, None], first // RB, width, CB, RUNS)
    wait_then_release(PDL)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    weight = tl.load(weights_ptr + slot, mask=slot < top_k, other=0.0)
    h = tl.reshape(load_runs(h_ptr, top_k, width, TOP_K, RUNS), (TOP_K, RUNS, RUN))[None, :, :, :]
    if SHARED:
        h_shared = load_runs(h_ptr + top_k * width, 1, width, 1, RUNS)[None, :, :]
    y = tl.sum(run_sums(w, h) * scales[None, :, :], 2).to(dtype).to(tl.float32)
    total = tl.sum(y * weight[None, :], 1)
    if SHARED:
        y_shared = tl.sum(run_sums(w_shared, h_shared) * shared_scales[None, :], 1)
        total = total.to(dtype).to(tl.float32) + y_shared.to(dtype).to(tl.float32)
    tl.store(out_ptr + feature, total, mask=feature < dim)


def fits_single_fp8(w13: Weight, w2: Weight, shared: tuple[Weight, Weight] | None) -> bool:
    """Whether the two launches take these weights: all in fp8, alike in blocks, with rows that fit into registers."""
    if not (isinstance(w13, Quantised) and isinstance(w2, Quantised) and lies_in_runs(w13) and lies_in_runs(w2)):
        return False
    if shared is not None and [_layout(weight) for weight in shared] != [_layout(w13), _layout(w2)]:
        return False
    return w2.shape[2] % LEAST_BLOCK == 0 and w13.shape[2] <= MOST_WIDTH and w2.shape[2] <= MOST_WIDTH


def _layout(weight: Weight) -> tuple[object, ...]:
    """What of a matrix, or of each of several, a kernel knows when it is compiled."""
    return (*weight.shape[-2:], *((weight.format, weight.block) if isinstance(weight, Quantised) else ()))


def moe_single_fp8(
    x: Tensor,
    w13: Quantised,
    w2: Quantised,
    ids: Tensor,
    weights: Tensor,
    shared: tuple[Quantised, Quantised] | None,
    out: Tensor,
    tuning: SingleTuning | None = None,
) -> Tensor:
    """`moe_single` of weights that `fits_single_fp8` says fit: contiguous x [1, D] -> `out` [1, D]."""
    (_, dim), width, top_k = x.shape, w2.shape[2], ids.shape[1]
    t = tuning or choose_single_tuning(top_k, dim, width, x.element_size())
    shared13, shared2 = (w13, w2) if shared is None else shared
    block_f, block_d = min(t.block_f, LEAST_BLOCK), min(t.block_d, LEAST_BLOCK)
    h = torch.empty(top_k + (shared is not None), width, dtype=x.dtype, device=x.device)
    options = {"SHARED": shared is not None, "num_warps": t.num_warps, **launch_options(x.device)}
    _single_fp8_up_kernel[(cdiv(width, block_f), len(h))](
        x,
        ids,
        *(w13.packed, w13.scales),
        *(shared13.packed, shared13.scales),
        h,
        top_k,
        dim,
        width,
        RB=w13.block[0],
        CB=w13.block[1],
        BLOCK_F=block_f,
        RUNS=num_runs(dim),
        WIDTH=num_runs(dim) * LEAST_BLOCK,
        **options,
    )
    _single_fp8_down_kernel[(cdiv(dim, block_d),)](
        h,
        ids,
        weights,
        *(w2.packed, w2.scales),
        *(shared2.packed, shared2.scales),
        out,
        top_k,
        dim,
        width,
        RB=w2.block[0],
        CB=w2.block[1],
        TOP_K=next_power_of_2(top_k),
        BLOCK_D=block_d,
        RUNS=num_runs(width),
        WIDTH=num_runs(width) * LEAST_BLOCK,
        **options,
    )
    return out
