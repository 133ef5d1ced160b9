"""The two matrix products of an expert, for one tile of its weights and some rows.

Weights are the left operand and rows the right one, so that the matrix unit's long side runs along the weights:
a decode step has hundreds of weight rows for each token.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from engine.kernels.triton_support import jit, tl


@jit
def _load(ptr, row_ok, col, limit: tl.constexpr, EVEN_ROWS: tl.constexpr, EVEN_COLS: tl.constexpr):
    """A tile [n, BLOCK_K] of weights; masks cost instructions, and the released sizes need none."""
    if EVEN_ROWS and EVEN_COLS:
        tile = tl.load(ptr)
    elif EVEN_COLS:
        tile = tl.load(ptr, mask=row_ok[:, None], other=0.0)
    else:
        tile = tl.load(ptr, mask=row_ok[:, None] & (col < limit)[None, :], other=0.0)
    return tile


@jit
def up_tile(
    w_ptr,
    x_ptr,
    x_row,
    row_ok,
    feature,
    dim: tl.constexpr,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`silu(gate x) * up x` of one expert, rounded after each operation as the reference is.

    `w_ptr` is its [2F, D]; `x_row` (int64) are ROWS rows of x [., D], read where `row_ok`; `feature` are BLOCK_F of
    its F features: -> float32 [BLOCK_F, ROWS].
    """
    even_rows: tl.constexpr = width % BLOCK_F == 0
    even_cols: tl.constexpr = dim % BLOCK_K == 0
    col = tl.arange(0, BLOCK_K)
    feature_ok = feature < width
    w_ptrs = w_ptr + feature[:, None] * dim + col[None, :]
    x_ptrs = x_ptr + x_row[None, :] * dim + col[:, None]
    gate = tl.zeros([BLOCK_F, ROWS], tl.float32)
    up = tl.zeros([BLOCK_F, ROWS], tl.float32)
    for at in range(0, dim, BLOCK_K):
        w_gate = _load(w_ptrs, feature_ok, at + col, dim, even_rows, even_cols)
        w_up = _load(w_ptrs + width * dim, feature_ok, at + col, dim, even_rows, even_cols)
        x = tl.load(x_ptrs, mask=row_ok[None, :] & (at + col < dim)[:, None], other=0.0)
        gate = tl.dot(w_gate, x, gate, input_precision="ieee")
        up = tl.dot(w_up, x, up, input_precision="ieee")
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    dtype = w_ptr.dtype.element_ty
    gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    return (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * up


@jit
def down_tile(
    w_ptr,
    h_ptr,
    h_row,
    row_ok,
    feature,
    dim: tl.constexpr,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`down h` of one expert: `w_ptr` its [D, F], ROWS rows of h [., F], BLOCK_D of its D features.

    -> float32 [BLOCK_D, ROWS].
    """
    even_rows: tl.constexpr = dim % BLOCK_D == 0
    even_cols: tl.constexpr = width % BLOCK_K == 0
    col = tl.arange(0, BLOCK_K)
    w_ptrs = w_ptr + feature[:, None] * width + col[None, :]
    h_ptrs = h_ptr + h_row[None, :] * width + col[:, None]
    acc = tl.zeros([BLOCK_D, ROWS], tl.float32)
    for at in range(0, width, BLOCK_K):
        w = _load(w_ptrs, feature < dim, at + col, width, even_rows, even_cols)
        h = tl.load(h_ptrs, mask=row_ok[None, :] & (at + col < width)[:, None], other=0.0)
        acc = tl.dot(w, h, acc, input_precision="ieee")
        w_ptrs += BLOCK_K
        h_ptrs += BLOCK_K
    return acc
