"""Products of some rows with plain weights: weights are on their way to the chip before the rows exist.

A program multiplies a tile of weight rows with one part of the columns; by programmatic launches it asks the
second-level cache for all of that while the kernel before it still waits for others. The last part to finish adds the
parts, in their order whoever is last, so that equal inputs give equal bits.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.arrival import counters, store_sum
from engine.kernels.paths import current
from engine.kernels.programmatic import launch_options, prefetch_each, wait_then_release
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel

MOST_ROWS = 64  # behind it the library's product is hard to reach
MOST_FEATURES = 1 << 14  # above it (the head) the library reads at what the machine gives
MOST_BLOCKS = 1 << 12
_arrived = counters(MOST_BLOCKS)


@dataclass(frozen=True, slots=True)
class FewRowsTuning:
    """Weight rows and columns of a tile, and columns of a program: every program should be on the GPU at once."""

    block_n: int = 64
    block_k: int = 128
    chunk: int = 512
    num_warps: int = 4
    num_stages: int = 3


def few_rows_reference(x: Tensor, weight: Tensor) -> Tensor:
    """`x w^T`: [T, K] and [N, K] of one dtype -> [T, N], accumulated in float32 and rounded once."""
    return (x.float() @ weight.float().t()).to(x.dtype)


@jit
def _few_rows_kernel(
    x_ptr,
    w_ptr,
    parts_ptr,
    arrived_ptr,
    y_ptr,
    num_rows,
    n: tl.constexpr,
    k: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ITEM: tl.constexpr,
    THREADS: tl.constexpr,
    PDL: tl.constexpr,
):
    """y [T, n] of BLOCK_N weight rows and CHUNK columns."""
    block, part = tl.program_id(0), tl.program_id(1)
    first, begins = block * BLOCK_N, part * CHUNK
    if PDL and k % CHUNK == 0 and n % BLOCK_N == 0:
        piece: tl.constexpr = BLOCK_N * CHUNK // THREADS  # columns that each thread asks for
        at = tl.arange(0, THREADS) * piece
        prefetch_each(w_ptr + (first + at // CHUNK).to(tl.int64) * k + begins + at % CHUNK, piece * ITEM)
    wait_then_release(PDL)
    row, feature = tl.arange(0, ROWS), first + tl.arange(0, BLOCK_N)
    row_ok = row < num_rows
    acc = _tile(w_ptr, x_ptr, row, row_ok, feature, begins, n, k, CHUNK, ROWS, BLOCK_N, BLOCK_K)
    mask = (feature < n)[:, None] & row_ok[None, :]
    cell = row.to(tl.int64)[None, :] * n + feature[:, None]
    store_sum(acc, parts_ptr, arrived_ptr + block, y_ptr, cell, mask, part, num_rows * n, SPLITS, BLOCK_N, ROWS)


@jit
def _tile(
    w_ptr, x_ptr, row, row_ok, feature, begins, n: tl.constexpr, k: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_N weight rows times ROWS rows over columns begins..begins + CHUNK: -> float32 [BLOCK_N, ROWS]."""
    even_rows: tl.constexpr = n % BLOCK_N == 0
    even_cols: tl.constexpr = k % CHUNK == 0 and CHUNK % BLOCK_K == 0
    col = begins + tl.arange(0, BLOCK_K)
    w_ptrs = w_ptr + feature.to(tl.int64)[:, None] * k + col[None, :]
    x_ptrs = x_ptr + row[None, :] * k + col[:, None]
    acc = tl.zeros([BLOCK_N, ROWS], tl.float32)
    for at in range(0, CHUNK, BLOCK_K):
        if even_rows and even_cols:
            w = tl.load(w_ptrs)
        else:
            w = tl.load(w_ptrs, mask=(feature < n)[:, None] & (at + col < k)[None, :], other=0.0)
        x = tl.load(x_ptrs, mask=row_ok[None, :] & (at + col < k)[:, None], other=0.0)
        acc = tl.dot(w, x, acc, input_precision="ieee")
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    return acc


def takes_few_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of these goes through the kernel, by the current paths."""
    if not current().few_rows or not use_kernel(x) or x.dim() != 2 or x.dtype != weight.dtype:
        return False
    return weight.shape[0] <= MOST_FEATURES and weight.is_contiguous() and 0 < x.shape[0] <= MOST_ROWS


def few_rows(x: Tensor, weight: Tensor, out: Tensor | None = None, tuning: FewRowsTuning | None = None) -> Tensor:
    """Checked form of `few_rows_reference`, into contiguous `out` [T, N] if given.

    Raises:
        ValueError: sizes, dtypes or memory layouts are not the kernel's.
    """
    (num_rows, k), n = x.shape, weight.shape[0]
    out = x.new_empty(num_rows, n) if out is None else out
    fits = weight.shape == (n, k) and x.dtype == weight.dtype and out.shape == (num_rows, n) and num_rows <= MOST_ROWS
    if not fits or not weight.is_contiguous() or not out.is_contiguous():
        raise ValueError(
            f"few_rows: x {x.dtype} {tuple(x.shape)}, weight {weight.dtype} {tuple(weight.shape)}, "
            f"out {tuple(out.shape)}; at most {MOST_ROWS} rows, without gaps"
        )
    t = tuning or FewRowsTuning(chunk=512 if num_rows <= 32 else 1024)  # of more rows two programs fit, not three
    block_k = max(16, min(t.block_k // (x.element_size() // 2), next_power_of_2(k)))  # the least of a product is 16
    chunk = max(block_k, min(t.chunk, next_power_of_2(k)))
    blocks, splits = cdiv(n, t.block_n), cdiv(k, chunk)
    assert blocks <= MOST_BLOCKS, "more features than there are counters for"
    parts = out if splits == 1 else torch.empty(splits, num_rows, n, dtype=torch.float32, device=x.device)
    _few_rows_kernel[(blocks, splits)](
        x.contiguous(),
        weight,
        parts,
        _arrived(x.device),
        out,
        num_rows,
        n,
        k,
        CHUNK=chunk,
        SPLITS=splits,
        ROWS=max(16, next_power_of_2(num_rows)),
        BLOCK_N=t.block_n,
        BLOCK_K=block_k,
        ITEM=x.element_size(),
        THREADS=32 * t.num_warps,
        num_warps=t.num_warps,
        num_stages=t.num_stages,
        **launch_options(x.device),
    )
    return out
