"""Products of one to a few rows with plain or fp8 weights: bound by reading the weights, and by waiting for the rows.

A program holds a few whole rows of the weights in registers. Nothing is split, so nothing is joined; all programs ask
for all their weights at once, and by programmatic launches before the rows exist: what remains behind the kernel
before this one is a read of the rows and a sum. The kernel of fp8 weights is that of `thin_fp8.py`.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.kernels.fp8_rows import lies_in_runs
from engine.kernels.paths import current
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.thin_fp8 import thin_fp8
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel
from engine.quantised import Quantised, Weight, dequantised

MOST_ROWS = 2  # one after the other through the same registers; of 4 the library's product takes 4 % less
MOST_FEATURES = 1 << 14  # above it (the head) the library reads at 94 % of what the machine gives
MOST_WIDTH = 1 << 13  # of a weight row that registers hold


@dataclass(frozen=True, slots=True)
class ThinTuning:
    """Weight rows of a program, and warps that share them."""

    block_n: int
    num_warps: int


def thin_reference(x: Tensor, weight: Weight) -> Tensor:
    """`x w^T`: [T, K] and [N, K] of one dtype -> [T, N], accumulated in float32 and rounded once."""
    return (x.float() @ dequantised(weight, x.dtype).float().t()).to(x.dtype)


@jit
def _thin_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    num_rows,
    n,
    k: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """y [T, n] of BLOCK_N weight rows, for T up to ROWS. Compiled once for all weights of one width: n is a number."""
    feature, col = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, WIDTH)
    cell = feature.to(tl.int64)[:, None] * k + col[None, :]
    if EVEN:
        w = tl.load(w_ptr + cell)
    else:
        w = tl.load(w_ptr + cell, mask=(feature < n)[:, None] & (col < k)[None, :], other=0.0)
    wait_then_release(PDL)
    for row in tl.static_range(ROWS):
        x = tl.load(x_ptr + row * k + col, mask=(col < k) & (row < num_rows), other=0.0)
        y = tl.sum(w.to(tl.float32) * x.to(tl.float32)[None, :], 1)
        tl.store(y_ptr + row * n + feature, y, mask=(feature < n) & (row < num_rows))


def takes_thin(x: Tensor, weight: Weight) -> bool:
    """Whether the product of these goes through the kernel, by the current paths."""
    if not current().thin_products or not use_kernel(x) or x.dim() != 2 or not _is_read(x, weight):
        return False
    fits = weight.shape[0] <= MOST_FEATURES and weight.shape[1] <= MOST_WIDTH and weight.is_contiguous()
    return fits and 0 < x.shape[0] <= MOST_ROWS


def _is_read(x: Tensor, weight: Weight) -> bool:
    """Whether there is a kernel for weights like these."""
    return lies_in_runs(weight) if isinstance(weight, Quantised) else x.dtype == weight.dtype


def thin(x: Tensor, weight: Weight, out: Tensor | None = None, tuning: ThinTuning | None = None) -> Tensor:
    """Checked form of `thin_reference`, into contiguous `out` [T, N] if given.

    Raises:
        ValueError: sizes, dtypes or memory layouts are not the kernel's.
    """
    num_rows, k = x.shape
    n = weight.shape[0]
    out = x.new_empty(num_rows, n) if out is None else out
    fits = weight.shape == (n, k) and _is_read(x, weight) and out.shape == (num_rows, n)
    if not fits or not weight.is_contiguous() or not out.is_contiguous() or k > MOST_WIDTH:
        raise ValueError(
            f"thin: x {x.dtype} {tuple(x.shape)}, weight {_kind(weight)} {tuple(weight.shape)}, "
            f"out {tuple(out.shape)}; rows of at most {MOST_WIDTH} without gaps"
        )
    if isinstance(weight, Quantised):
        if num_rows > MOST_ROWS:
            raise ValueError(f"thin: {num_rows} rows with fp8 weights; at most {MOST_ROWS} are multiplied")
        t = tuning or choose_thin_fp8_tuning(k)
        return thin_fp8(x.contiguous(), weight, out, t.block_n, t.num_warps)
    t = tuning or choose_thin_tuning(k, x.element_size())
    _thin_kernel[(cdiv(n, t.block_n),)](
        x.contiguous(),
        weight,
        out,
        num_rows,
        n,
        k,
        EVEN=n % t.block_n == 0 and k == next_power_of_2(k),
        ROWS=next_power_of_2(num_rows),
        BLOCK_N=t.block_n,
        WIDTH=next_power_of_2(k),
        num_warps=t.num_warps,
        **launch_options(x.device),
    )
    return out


def _kind(weight: Weight) -> str:
    return f"{weight.format} in blocks of {weight.block}" if isinstance(weight, Quantised) else str(weight.dtype)


def choose_thin_tuning(k: int, element_bytes: int) -> ThinTuning:
    """16 KiB of weights a program: every program of a projection is on the GPU at once."""
    rows = max(1, 16384 // (next_power_of_2(k) * element_bytes))
    return ThinTuning(min(rows, 8), 4)


def choose_thin_fp8_tuning(k: int) -> ThinTuning:
    """As many bytes of fp8 weights, but no more than four rows: every one's sum is in registers as well.

    On one H200 the query product takes 4.6 us for one row and 5.2 for two; with half as many weights 4.8 and 7.0.
    """
    return ThinTuning(min(4, choose_thin_tuning(k, 1).block_n), 4)
