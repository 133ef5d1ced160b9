"""Products of one or two rows with fp8 weights: whole weight rows in registers, as `thin.py` holds plain ones."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from torch import Tensor

from engine.kernels.fp8_rows import in_runs, load_runs, num_runs, run_scales, run_sums
from engine.kernels.programmatic import launch_options, release, wait
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl
from engine.quantised import LEAST_BLOCK, Quantised


@jit
def _thin_fp8_kernel(
    x_ptr,
    w_ptr,
    s_ptr,
    y_ptr,
    num_rows,
    n,
    k: tl.constexpr,
    RB: tl.constexpr,
    CB: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RUNS: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """y [T, n] of BLOCK_N weight rows, for T up to ROWS. Compiled once for all weights of one width: n is a number."""
    first = tl.program_id(0) * BLOCK_N
    feature, col = first + tl.arange(0, BLOCK_N), tl.arange(0, WIDTH)
    cell = feature.to(tl.int64)[:, None] * k + col[None, :]
    if EVEN:
        w = tl.load(w_ptr + cell)
    else:
        w = tl.load(w_ptr + cell, mask=(feature < n)[:, None] & (col < k)[None, :], other=0)
    w = in_runs(w, BLOCK_N, RUNS)
    scales = run_scales(s_ptr, first // RB, k, CB, RUNS)[None, :]
    wait(PDL)
    x = load_runs(x_ptr, num_rows, k, 1, RUNS)[None, :, :]
    if ROWS == 2:
        other = load_runs(x_ptr + k, num_rows - 1, k, 1, RUNS)[None, :, :]
    release(PDL)
    # Every weight is widened once, for both rows, and before threads wait for each other.
    sums = run_sums(w, x)
    if ROWS == 2:
        others = run_sums(w, other)
        tl.store(y_ptr + n + feature, tl.sum(others * scales, 1), mask=(feature < n) & (num_rows > 1))
    tl.store(y_ptr + feature, tl.sum(sums * scales, 1), mask=feature < n)


def thin_fp8(x: Tensor, weight: Quantised, out: Tensor, block_n: int, num_warps: int) -> Tensor:
    """`thin` of contiguous x [T, K], T of 1 or 2, and fp8 weights [N, K] into contiguous `out` [T, N].

    A program has `block_n` weight rows, or as many as have one scale.
    """
    (num_rows, k), n = x.shape, weight.shape[0]
    block_n, runs = min(block_n, LEAST_BLOCK), num_runs(k)
    _thin_fp8_kernel[(cdiv(n, block_n),)](
        x,
        weight.packed,
        weight.scales,
        out,
        num_rows,
        n,
        k,
        RB=weight.block[0],
        CB=weight.block[1],
        EVEN=n % block_n == 0 and k == runs * LEAST_BLOCK,
        ROWS=next_power_of_2(num_rows),
        BLOCK_N=block_n,
        RUNS=runs,
        WIDTH=runs * LEAST_BLOCK,
        num_warps=num_warps,
        **launch_options(x.device),
    )
    return out
