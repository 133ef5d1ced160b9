"""Whole rows of fp8 weights in registers: a thread holds runs of 16 columns, each under one scale.

16 bytes are what a thread loads at once, and no block of scales is narrower. A run is summed by the thread that holds
it; then its scale multiplies that sum, one instruction for 16 weights.

Weights are loaded with their columns as the last of two axes, and take shape afterwards: with more axes, versions of
Triton differ in which one they lay threads along, and only so do weights and rows meet without shared memory.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from engine.kernels.quantised_tiles import widen
from engine.kernels.triton_support import cdiv, constexpr, jit, next_power_of_2, tl
from engine.quantised import LEAST_BLOCK, Quantised

RUN = constexpr(LEAST_BLOCK)


def num_runs(k: int) -> int:
    """Runs of a row of `k` columns, rounded up to a power of two."""
    return next_power_of_2(cdiv(k, LEAST_BLOCK))


def lies_in_runs(weight: Quantised) -> bool:
    """Whether each run, of up to 16 rows that begin at a multiple of 16, has one scale."""
    rows, columns = weight.block
    return weight.format == "fp8" and rows % LEAST_BLOCK == columns % LEAST_BLOCK == 0


@jit
def in_runs(w, N: tl.constexpr, RUNS: tl.constexpr):
    """Weights [N, RUNS * RUN] -> [N, RUNS, RUN]."""
    return tl.reshape(w, (N, RUNS, RUN))


@jit
def run_scales(s_ptr, row_block, k: tl.constexpr, CB: tl.constexpr, RUNS: tl.constexpr):
    """The scale of each run [RUNS] in rows of `row_block`, for weights of `k` columns; 0 behind them.

    Where `s_ptr` is of shape [N, 1], those of several matrices: [N, RUNS].
    """
    col = tl.arange(0, RUNS) * RUN
    return tl.load(s_ptr + row_block * ((k + CB - 1) // CB) + col // CB, mask=col < k, other=0.0)


@jit
def load_runs(x_ptr, num_rows, k: tl.constexpr, ROWS: tl.constexpr, RUNS: tl.constexpr):
    """Numbers [num_rows, k] in float32, in the runs that threads hold of weights: [ROWS * RUNS, RUN], zeros behind.

    In two halves of runs, since 16 bytes are 8 numbers, which are joined in registers. They meet weights [N, RUNS, RUN]
    by `[None, :, :]`: by a reshape to that, the weights would take the order of the halves, byte by byte.
    """
    half: tl.constexpr = RUN // 2
    run = tl.arange(0, ROWS * RUNS)[:, None]
    row, col = run // RUNS, run % RUNS * RUN + tl.arange(0, half)[None, :]
    left = tl.load(x_ptr + row * k + col, mask=(row < num_rows) & (col < k), other=0.0)
    right = tl.load(x_ptr + row * k + half + col, mask=(row < num_rows) & (col + half < k), other=0.0)
    both = tl.permute(tl.join(left, right), (0, 2, 1))
    return tl.reshape(both, (ROWS * RUNS, RUN)).to(tl.float32)


@jit
def run_sums(w, x):
    """Bytes of weights [..., RUNS, RUN] times x, to broadcast with them: the sum of each run, not scaled yet."""
    return tl.sum(widen(w, tl.float32) * x, len(w.shape) - 1)
