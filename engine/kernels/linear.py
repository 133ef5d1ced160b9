"""Products with weights in any format: few rows read the packed weights once, many widen them for the library.

Up to `MOST_SKINNY` rows a product is bound by reading weights: the kernel reads the packed bytes, once for every 64
rows. Behind that it is bound by multiplying, where the library's product is hard to reach: the weights are widened
into a bfloat16 scratch first. At 2048 rows that scratch costs five bytes of traffic a weight beside 4096 operations,
about a fifth of the time, and less with every row more; tiles widened inside the product would do it anew for every
row tile.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.arrival import counters, store_sum
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.quantised_tiles import narrowed, product_fp8, widen
from engine.kernels.split_rows import split_rows
from engine.kernels.split_tiles import split_product
from engine.kernels.thin import takes_thin, thin
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, num_multiprocessors, tl, use_kernel
from engine.quantised import Quantised, Weight, dequantised

MOST_SKINNY = 256  # rows up to which weights are read packed
MOST_ROWS = 64  # of a tile
MOST_TILES = 1 << 16  # tiles that are summed from parts in one launch
_arrived = counters(MOST_TILES)


@dataclass(frozen=True, slots=True)
class LinearTuning:
    """Weight rows and columns of a tile, and programs that should be there for each multiprocessor.

    `split` is rows in two parts by the fp8 matrix unit (`split_tiles`) in place of widened weights; one more launch.
    """

    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    programs_per_sm: int = 4
    split: bool = False


def linear_reference(x: Tensor, weight: Weight) -> Tensor:
    """`x w^T`: x [T, K], weight [N, K] in any format -> [T, N]; the weight is widened to the dtype of `x` first."""
    return F.linear(x, dequantised(weight, x.dtype))


@jit
def _skinny_kernel(
    x_ptr,
    xs_ptr,
    w_ptr,
    s_ptr,
    parts_ptr,
    arrived_ptr,
    y_ptr,
    num_rows,
    n: tl.constexpr,
    k: tl.constexpr,
    chunk: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    SPLIT: tl.constexpr,
    PDL: tl.constexpr,
):
    """y [T, n] of BLOCK_N weight rows, ROWS rows of x and one part of the columns; the last part to finish adds all."""
    wait_then_release(PDL)
    block, part, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = block * BLOCK_N
    row = tile * ROWS + tl.arange(0, ROWS)
    row_ok = row < num_rows
    begins = part * chunk
    ends = tl.minimum(begins + chunk, k)
    if SPLIT:
        x_row = tl.where(row_ok, row, -1).to(tl.int64)
        acc = split_product(
            w_ptr, s_ptr, x_ptr, xs_ptr, x_row, first, begins, ends, n, k, ROWS, BLOCK_N, BLOCK_K, RB, CB
        )
    else:
        acc = product_fp8(
            w_ptr, s_ptr, x_ptr, row.to(tl.int64), row_ok, first, begins, ends, n, k, ROWS, BLOCK_N, BLOCK_K, RB, CB
        )
    feature = first + tl.arange(0, BLOCK_N)
    mask = (feature < n)[:, None] & row_ok[None, :]
    cell = row.to(tl.int64)[None, :] * n + feature[:, None]
    counter = arrived_ptr + tile * tl.num_programs(0) + block
    store_sum(acc, parts_ptr, counter, y_ptr, cell, mask, part, num_rows * n, SPLITS, BLOCK_N, ROWS)


def linear(x: Tensor, weight: Weight, out: Tensor | None = None) -> Tensor:
    """Checked form of `linear_reference`, into contiguous `out` [T, N] of the dtype of `x` if given.

    Raises:
        ValueError: sizes do not agree, or the weight's memory layout is not the kernel's.
    """
    if not isinstance(weight, Quantised):
        # Not for weights widened a moment ago: these may be read before the kernel in front of the product has ended.
        return thin(x, weight, out) if takes_thin(x, weight) else _product(x, weight, out)
    if x.dim() != 2 or x.shape[1] != weight.shape[-1] or len(weight.shape) != 2 or not weight.is_contiguous():
        raise ValueError(f"linear: x {tuple(x.shape)}, weight {tuple(weight.shape)}; weights must be contiguous")
    if not use_kernel(x) or weight.format != "fp8":
        return _product(x, weight.dequantise(x.dtype), out)
    if takes_thin(x, weight):
        return thin(x, weight, out)
    if x.shape[0] > MOST_SKINNY:
        return _product(x, widened(weight, x.dtype), out)
    out = x.new_empty(x.shape[0], weight.shape[0]) if out is None else out
    if not out.is_contiguous():
        raise ValueError(f"linear: the output has strides {out.stride()}; the kernel writes rows without gaps")
    return skinny(x.contiguous(), weight, out=out) if x.shape[0] else out


def _product(x: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    return F.linear(x, weight) if out is None else torch.mm(x, weight.t(), out=out)


def skinny(x: Tensor, weight: Quantised, tuning: LinearTuning | None = None, out: Tensor | None = None) -> Tensor:
    """`linear` of few rows of contiguous x [T, K] and fp8 weights [N, K]: one launch, two if rows are split."""
    num_rows, k = x.shape
    n = weight.shape[0]
    tuning = tuning or choose_linear_tuning(num_rows, n, x.element_size())
    block_n, block_k = min(tuning.block_n, max(16, next_power_of_2(n))), narrowed(tuning.block_k, weight)
    rows = max(16, min(MOST_ROWS, next_power_of_2(num_rows)))
    blocks, tiles = cdiv(n, block_n), cdiv(num_rows, rows)
    chunk = _chunk(k, weight.block[1], blocks * tiles, tuning.programs_per_sm * num_multiprocessors(x.device))
    splits = cdiv(k, chunk)
    y = x.new_empty(num_rows, n) if out is None else out
    parts = y if splits == 1 else torch.empty(splits, num_rows, n, dtype=torch.float32, device=x.device)
    split = split_rows(x) if tuning.split else None
    _skinny_kernel[(blocks, splits, tiles)](
        x if split is None else split.parts,
        weight.scales if split is None else split.scales,  # not read unless rows are split
        *((weight.packed, weight.scales) if split is None else weight.numbers),
        parts,
        _arrived(x.device),
        y,
        num_rows,
        n,
        k,
        chunk,
        SPLITS=splits,
        ROWS=rows,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        RB=weight.block[0],
        CB=weight.block[1],
        SPLIT=tuning.split,
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
        **launch_options(x.device),
    )
    return y


def _chunk(k: int, column_block: int, programs: int, wanted: int) -> int:
    """Columns of a part, whole blocks of scales and at least four of them: as many parts as fill the machine."""
    blocks = cdiv(k, column_block)
    splits = max(1, min(wanted // programs, blocks // 4)) if programs < MOST_TILES else 1
    return cdiv(blocks, splits) * column_block


@jit
def _widen_kernel(
    w_ptr, s_ptr, out_ptr, n, k: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = (row < n)[:, None] & (col < k)[None, :]
    cell = row.to(tl.int64)[:, None] * k + col[None, :]
    raw = tl.load(w_ptr + cell, mask=mask, other=0)
    scale = tl.load(s_ptr + (row // RB)[:, None] * ((k + CB - 1) // CB) + (col // CB)[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + cell, widen(raw, tl.float32) * scale, mask=mask)


def widened(weight: Quantised, dtype: torch.dtype) -> Tensor:
    """`weight.dequantise` of a contiguous fp8 weight [N, K] in one launch."""
    n, k = weight.shape
    out = torch.empty(n, k, dtype=dtype, device=weight.packed.device)
    block = min(512, next_power_of_2(k))
    _widen_kernel[(cdiv(n, 16), cdiv(k, block))](
        weight.packed, weight.scales, out, n, k, RB=weight.block[0], CB=weight.block[1], ROWS=16, BLOCK_K=block
    )
    return out


def choose_linear_tuning(num_rows: int, n: int, element_bytes: int) -> LinearTuning:
    """Tiles whose warps each have weight rows of their own: more warps would widen the same weights twice.

    Measured on one H100 at the released sizes (docs/performance.md); `n` is the number of weight rows.
    """
    many = n >= 16384  # the head: enough programs without splitting the columns
    if element_bytes > 2:
        return LinearTuning(16, 64, 4, 2)
    if num_rows <= 16:
        return LinearTuning(32, 128, 2, 6, programs_per_sm=2) if many else LinearTuning(32, 128, 2, 4)
    if num_rows <= 32:
        return LinearTuning(64, 128, 2, 4) if many else LinearTuning(32, 128, 2, 6, programs_per_sm=2)
    return LinearTuning(64, 128, 4, 4)
