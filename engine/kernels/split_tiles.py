"""Products of packed fp8 weights with rows in two parts: both operands go from shared memory into the matrix unit.

`quantised_tiles` widens every weight in registers; here a weight is copied to shared memory and never touched by an
instruction but the matrix unit's. The two parts of a row are neighbouring columns of one product, which the matrix
unit's result puts into one thread: they are added in registers.

Hopper's matrix unit aligns the products of an fp8 instruction (32 columns) and the sum so far to the largest among
them and keeps about 14 bits. Here no sum in it is longer than a step of the loop, at most 128 columns; steps are
scaled and added in float32. What is cut is about 2^-13 of a step's largest term in each of four additions, beneath the
2^-9 at which bfloat16 results round; `max_num_imprecise_acc=32`, float32 additions within a step, would save three.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from engine.kernels.moe_tiles import _load
from engine.kernels.quantised_tiles import _rows_in, _scale
from engine.kernels.split_rows import REST
from engine.kernels.triton_support import jit, tl


@jit
def _parts_of(row):
    """Rows of `SplitRows.parts`, hi and lo of one row side by side; negative where `row` (int64) is."""
    return tl.interleave(2 * row, 2 * row + 1)


@jit
def _joined(acc, scale, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """acc [BLOCK, 2 * ROWS] of hi and lo, each row's scale [ROWS]: -> [BLOCK, ROWS]."""
    hi, lo = tl.split(acc.reshape(BLOCK, ROWS, 2))
    return (hi + lo * (1.0 / REST)) * scale[None, :]


@jit
def split_product(
    w_ptr, s_ptr, x_ptr, xs_ptr, x_row, first, begin, end, height: tl.constexpr, dim: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Rows first..first + BLOCK of w [height, dim] times ROWS rows over columns begin..end.

    `x_row` (int64) are the rows, -1 one of zeros; `x_ptr` are `SplitRows.parts` and `xs_ptr` its scales.
    -> float32 [BLOCK, ROWS].
    """
    even_rows: tl.constexpr = height % BLOCK == 0
    even_cols: tl.constexpr = dim % BLOCK_K == 0
    col, feature = tl.arange(0, BLOCK_K), first + tl.arange(0, BLOCK)
    part = _parts_of(x_row)
    w_ptrs = w_ptr + feature.to(tl.int64)[:, None] * dim + (begin + col)[None, :]
    x_ptrs = x_ptr + part[None, :] * dim + (begin + col)[:, None]
    x_scale = tl.load(xs_ptr + x_row, mask=x_row >= 0, other=0.0)
    row = _rows_in(feature, height)
    acc = tl.zeros([BLOCK, 2 * ROWS], tl.float32)
    scale = _scale(s_ptr, first, row, begin, dim, RB, CB, BLOCK)
    for at in range(begin, end, BLOCK_K):
        w = _load(w_ptrs, feature < height, at + col, dim, even_rows, even_cols)
        if even_cols:
            x = tl.load(x_ptrs, mask=(part >= 0)[None, :], other=0.0)
        else:
            x = tl.load(x_ptrs, mask=(part >= 0)[None, :] & (at + col < dim)[:, None], other=0.0)
        next_scale = _scale(s_ptr, first, row, at + BLOCK_K, dim, RB, CB, BLOCK)
        acc += tl.dot(w, x) * scale
        scale = next_scale
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    return _joined(acc, x_scale, ROWS, BLOCK)


@jit
def split_up_tile(
    w_ptr, s_ptr, x_ptr, xs_ptr, x_row, first, dim: tl.constexpr, width: tl.constexpr, dtype: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """`silu(gate x) * up x` for features first..first + BLOCK_F of [2 width, dim], rounded to `dtype` after each step.

    Rows of gate and up are one tile of 2 * BLOCK_F, so that the matrix unit is asked once. Operands as in
    `split_product`: -> float32 [BLOCK_F, ROWS].
    """
    even_rows: tl.constexpr = width % BLOCK_F == 0
    even_cols: tl.constexpr = dim % BLOCK_K == 0
    col, place = tl.arange(0, BLOCK_K), tl.arange(0, 2 * BLOCK_F)
    is_up, feature = place // BLOCK_F, first + place % BLOCK_F
    part = _parts_of(x_row)
    w_ptrs = w_ptr + (is_up * width + feature)[:, None] * dim + col[None, :]
    x_ptrs = x_ptr + part[None, :] * dim + col[:, None]
    x_scale = tl.load(xs_ptr + x_row, mask=x_row >= 0, other=0.0)
    up_scales = s_ptr + (width // RB) * ((dim + CB - 1) // CB)
    row = _rows_in(feature, width)
    acc = tl.zeros([2 * BLOCK_F, 2 * ROWS], tl.float32)
    s_gate = _scale(s_ptr, first, row, 0, dim, RB, CB, BLOCK_F)
    s_up = _scale(up_scales, first, row, 0, dim, RB, CB, BLOCK_F)
    for at in range(0, dim, BLOCK_K):
        w = _load(w_ptrs, feature < width, at + col, dim, even_rows, even_cols)
        if even_cols:
            x = tl.load(x_ptrs, mask=(part >= 0)[None, :], other=0.0)
        else:
            x = tl.load(x_ptrs, mask=(part >= 0)[None, :] & (at + col < dim)[:, None], other=0.0)
        next_gate = _scale(s_ptr, first, row, at + BLOCK_K, dim, RB, CB, BLOCK_F)
        next_up = _scale(up_scales, first, row, at + BLOCK_K, dim, RB, CB, BLOCK_F)
        acc += tl.dot(w, x) * tl.where(is_up[:, None] == 0, s_gate, s_up)
        s_gate, s_up = next_gate, next_up
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    both = _joined(acc, x_scale, ROWS, 2 * BLOCK_F).to(dtype).to(tl.float32)
    gate, up = tl.split(both.reshape(2, BLOCK_F, ROWS).permute(1, 2, 0))
    return (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * up
