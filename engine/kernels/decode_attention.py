"""One new token a sequence: the keys are split over programs, whose partial softmaxes are joined.

A second kernel joins them, or (`Paths.join_attention`) the last program of a sequence's head to finish, which finds
what the others wrote in the second-level cache: one launch less is waited for. The query heads that share a key/value
head are the rows of one matrix product, so every cached row is read once (flash decoding with grouped queries).
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.kernels.arrival import counters, is_last
from engine.kernels.paths import current
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import cdiv, constexpr, jit, next_power_of_2, num_multiprocessors, tl

LOG2_E = 1.4426950408889634
MOST_PAIRS = 1 << 16  # sequences times key/value heads whose parts are joined by their last program
_arrived = counters(MOST_PAIRS)
JOINED = constexpr(4)  # parts that are read at once while they are joined
MIN_ROWS = 16  # of the matrix unit: a group of 8 query heads fills half of them, which costs nothing but idle lanes


@dataclass(frozen=True, slots=True)
class DecodeTuning:
    """How the keys are walked: `block_keys` at a time, with `programs_per_sm` programs for each multiprocessor.

    One program joins at most `most_joined` parts: beyond that a second kernel is faster, or fewer and longer parts.
    Where the last program joins, a part has at least `least_joined` keys: to walk through them takes less time than to
    join, and a short context is one part.
    """

    block_keys: int = 64
    num_warps: int = 4
    num_stages: int = 3
    programs_per_sm: int = 2
    most_joined: int = 32
    least_joined: int = 256


@jit
def paged_rows(tables_ptr, key, visible, block_size: tl.constexpr):
    """Cache rows (int64) of positions `key` of one sequence, through its block table."""
    block = tl.load(tables_ptr + key // block_size, mask=visible, other=0)
    return block.to(tl.int64) * block_size + key % block_size


@jit
def softmax_step(scores, best, total):
    """One step of the online softmax in base 2: -> weights, new maximum, new sum, factor for what was summed before."""
    # A row that saw nothing yet has maximum -inf; without the floor it would become inf - inf.
    new_best = tl.maximum(tl.maximum(best, tl.max(scores, 1)), -1.0e30)
    weights = tl.exp2(scores - new_best[:, None])
    rescale = tl.exp2(best - new_best)
    return weights, new_best, total * rescale + tl.sum(weights, 1), rescale


@jit
def share_of(length, SPLITS: tl.constexpr, BLOCK_KEYS: tl.constexpr, LEAST: tl.constexpr, JOIN: tl.constexpr):
    """Keys of a share, and how many shares have any: at least one, so that a sequence of length 0 gets its zeros."""
    share = tl.cdiv(tl.cdiv(length, BLOCK_KEYS), SPLITS) * BLOCK_KEYS
    if JOIN:
        share = tl.maximum(share, LEAST)
    return share, tl.maximum(tl.cdiv(length, tl.maximum(share, 1)), 1)


@jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    tables_ptr,
    lens_ptr,
    acc_ptr,
    best_ptr,
    total_ptr,
    arrived_ptr,
    out_ptr,
    table_stride,
    scale_log2,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    width: tl.constexpr,
    block_size: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    LEAST: tl.constexpr,
    JOIN: tl.constexpr,
    PDL: tl.constexpr,
):
    """Partial attention of one sequence and key/value head over one share of the keys.

    acc [B, K, SPLITS, ROWS, C] is not yet divided by total [B, K, SPLITS, ROWS]; with one split it is the result. With
    JOIN the last program of a pair adds its parts; a share without keys takes no part.
    """
    wait_then_release(PDL)
    seq, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lens_ptr + seq).to(tl.int32)
    share, used = share_of(length, SPLITS, BLOCK_KEYS, LEAST, JOIN)
    if JOIN and split >= used:
        return
    start = tl.minimum(split * share, length)
    end = tl.minimum(start + share, length)

    row, col = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    q_mask = (row < group)[:, None] & (col < width)[None, :]
    head = (seq * num_kv_heads + kv_head) * group + row
    q = tl.load(q_ptr + head[:, None] * width + col[None, :], mask=q_mask, other=0.0)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32)
    for at in range(start, end, BLOCK_KEYS):
        key = at + tl.arange(0, BLOCK_KEYS)
        visible = key < end
        rows = paged_rows(tables_ptr + seq * table_stride, key, visible, block_size)
        cells = (rows[:, None] * num_kv_heads + kv_head) * width + col[None, :]
        kv_mask = visible[:, None] & (col < width)[None, :]
        best, total, acc = attend_tile(q, k_ptr + cells, v_ptr + cells, kv_mask, visible, best, total, acc, scale_log2)
    end_share(
        acc, best, total, acc_ptr, best_ptr, total_ptr, arrived_ptr, out_ptr, seq * num_kv_heads + kv_head, split,
        start < end, used, group, width, SPLITS, ROWS, WIDTH, GROUP, JOIN,
    )  # fmt: skip


@jit
def attend_tile(q, k_ptrs, v_ptrs, mask, visible, best, total, acc, scale_log2):
    """One tile of keys and values [BLOCK_KEYS, C] more: -> the maxima, sums and weighted values so far."""
    k = tl.load(k_ptrs, mask=mask, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    scores = tl.where(visible[None, :], scores, float("-inf"))
    weights, best, total, rescale = softmax_step(scores, best, total)
    v = tl.load(v_ptrs, mask=mask, other=0.0)
    acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    return best, total, acc


@jit
def end_share(
    acc, best, total, acc_ptr, best_ptr, total_ptr, arrived_ptr, out_ptr, pair, split, filled, used,
    group: tl.constexpr, width: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    GROUP: tl.constexpr, JOIN: tl.constexpr,
):  # fmt: skip
    """Store share `split` of a pair, `filled` unless it has no keys; the only or last one stores the result."""
    row, col = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mask = (row < group)[:, None] & (col < width)[None, :]
    out_ptrs = out_ptr + (pair * group + row)[:, None] * width + col[None, :]
    partial = (pair * SPLITS + split) * ROWS + row
    if SPLITS == 1:
        _store_divided(out_ptrs, acc, total, mask)
    elif not JOIN:
        if filled:  # a short sequence leaves most shares empty: their sums are neither written nor read
            tl.store(acc_ptr + partial[:, None] * WIDTH + col[None, :], acc)
        tl.store(best_ptr + partial, best)
        tl.store(total_ptr + partial, total)
    elif used == 1:
        _store_divided(out_ptrs, acc, total, mask)
    else:
        tl.store(acc_ptr + partial[:, None] * WIDTH + col[None, :], acc, mask=(row < group)[:, None])
        tl.store(best_ptr + partial, best)
        tl.store(total_ptr + partial, total)
        if is_last(arrived_ptr + pair, used):
            _join_parts(
                acc_ptr, best_ptr, total_ptr, out_ptr + pair * group * width, pair * SPLITS, used,
                group, width, GROUP, ROWS, WIDTH, CHUNK=JOINED,
            )  # fmt: skip
            tl.store(arrived_ptr + pair, 0)  # for the next launch


@jit
def _store_divided(ptrs, acc, total, mask):
    """Sums of weighted values, divided by the sums of the weights. Of a sequence of length 0, a pad, they are zeros."""
    tl.store(ptrs, acc / tl.maximum(total, 1.0e-30)[:, None], mask=mask)


@jit
def _join_parts(
    acc_ptr, best_ptr, total_ptr, out_ptr, first, used, group: tl.constexpr, width: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Parts `first`..`first + used` of one pair in their order, whoever is last, to its rows at `out_ptr`."""
    row, col = tl.arange(0, GROUP), tl.arange(0, WIDTH)
    best = tl.full([GROUP], -1.0e30, tl.float32)
    acc = tl.zeros([GROUP, WIDTH], tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    for begins in range(0, used, CHUNK):
        part = begins + tl.arange(0, CHUNK)
        cell = (first + part)[:, None] * ROWS + row[None, :]
        there = (part < used)[:, None] & (row < group)[None, :]
        own = tl.load(best_ptr + cell, mask=there, other=float("-inf"), cache_modifier=".cg")
        sums = tl.load(total_ptr + cell, mask=there, other=0.0, cache_modifier=".cg")
        acc_cell = cell[:, :, None] * WIDTH + col[None, None, :]
        values = tl.load(acc_ptr + acc_cell, mask=there[:, :, None], other=0.0, cache_modifier=".cg")
        new_best = tl.maximum(best, tl.max(own, 0))
        factor = tl.exp2(own - new_best[None, :])
        rescale = tl.exp2(best - new_best)
        total = total * rescale + tl.sum(sums * factor, 0)
        acc = acc * rescale[:, None] + tl.sum(values * factor[:, :, None], 0)
        best = new_best
    mask = (row < group)[:, None] & (col < width)[None, :]
    _store_divided(out_ptr + row[:, None] * width + col[None, :], acc, total, mask)


@jit
def _join_kernel(
    acc_ptr,
    best_ptr,
    total_ptr,
    out_ptr,
    group: tl.constexpr,
    width: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Join the partial softmaxes of one query head: grid (B * K, group)."""
    wait_then_release(PDL)
    pair, member = tl.program_id(0).to(tl.int64), tl.program_id(1)
    partial = (pair * SPLITS + tl.arange(0, SPLITS)) * ROWS + member
    col = tl.arange(0, WIDTH)
    best = tl.load(best_ptr + partial)
    factor = tl.exp2(best - tl.maximum(tl.max(best, 0), -1.0e30))
    total = tl.sum(tl.load(total_ptr + partial) * factor, 0)
    acc = tl.load(acc_ptr + partial[:, None] * WIDTH + col[None, :], mask=(best > float("-inf"))[:, None], other=0.0)
    out = tl.sum(acc * factor[:, None], 0) / tl.maximum(total, 1.0e-30)
    tl.store(out_ptr + (pair * group + member) * width + col, out, mask=col < width)


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tables: Tensor,
    seq_lens: Tensor,
    out: Tensor,
    tuning: DecodeTuning = DecodeTuning(),
    capacity: int | None = None,
) -> None:
    """Attend contiguous [B, H, C] over the first `seq_lens` [B] rows of block tables [B, N] into `out` [B, H, C].

    Nothing depends on values in device memory, so the launches can be captured: the grid follows from B and from the
    longest sequence that the tables hold, or `capacity`.
    """
    num_seqs, num_heads, width = q.shape
    _, block_size, num_kv_heads, _ = k_cache.shape
    plan = DecodePlan.make(num_seqs, num_heads, k_cache, tables, tuning, capacity)
    parts = plan.parts(out)
    _decode_kernel[plan.grid](
        q,
        k_cache,
        v_cache,
        tables,
        seq_lens,
        *parts,
        arrived(plan, tables),
        out,
        tables.stride(0),
        width**-0.5 * LOG2_E,
        num_kv_heads,
        block_size=block_size,
        **plan.constants(),
        **launch_options(q.device),
    )
    plan.finish(parts, out)


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How a batch's attention is laid out over programs."""

    grid: tuple[int, int, int]  # sequences, key/value heads, shares of the keys
    group: int
    width: int
    join: bool  # by the last program
    tuning: DecodeTuning

    @classmethod
    def make(
        cls, num_seqs: int, num_heads: int, cache: Tensor, tables: Tensor, tuning: DecodeTuning, capacity: int | None
    ) -> DecodePlan:
        """For `num_seqs` sequences with block tables [B, N] into `cache` [num_blocks, block_size, K, C].

        The longest may have `capacity` tokens: what the tables hold, if None.
        """
        _, block_size, num_kv_heads, width = cache.shape
        pairs = num_seqs * num_kv_heads
        splits = num_splits(pairs, capacity or tables.shape[1] * block_size, cache.device, tuning)
        join = current().join_attention and splits > 1 and pairs <= MOST_PAIRS
        splits = min(splits, tuning.most_joined) if join else splits
        return cls((num_seqs, num_kv_heads, splits), num_heads // num_kv_heads, width, join, tuning)

    def sizes(self) -> dict[str, int]:
        """Constants of both kernels."""
        rows, columns = max(MIN_ROWS, next_power_of_2(self.group)), max(16, next_power_of_2(self.width))
        return {"group": self.group, "width": self.width, "SPLITS": self.grid[2], "ROWS": rows, "WIDTH": columns}

    def constants(self) -> dict[str, Any]:
        """Those of the kernel that attends, and its launch's."""
        tuning = self.tuning
        return self.sizes() | {
            "BLOCK_KEYS": tuning.block_keys,
            "GROUP": next_power_of_2(self.group),
            "LEAST": cdiv(tuning.least_joined, tuning.block_keys) * tuning.block_keys,
            "JOIN": self.join,
            "num_warps": tuning.num_warps,
            "num_stages": tuning.num_stages,
        }

    def parts(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Room for each share's weighted values, maxima and sums; `out` where there is one share."""
        if self.grid[2] == 1:
            return out, out, out
        sizes = self.sizes()
        shape = (self.grid[0] * self.grid[1], self.grid[2], sizes["ROWS"])
        acc = torch.empty(*shape, sizes["WIDTH"], dtype=torch.float32, device=out.device)
        best, total = torch.empty(2, *shape, dtype=torch.float32, device=out.device).unbind()
        return acc, best, total

    def finish(self, parts: tuple[Tensor, Tensor, Tensor], out: Tensor) -> None:
        """The second launch, where there are parts that no program has joined."""
        if self.grid[2] > 1 and not self.join:
            grid, options = (self.grid[0] * self.grid[1], self.group), launch_options(out.device)
            _join_kernel[grid](*parts, out, **self.sizes(), num_warps=2, **options)


def arrived(plan: DecodePlan, unused: Tensor) -> Tensor:
    """The counters of shares that are done; some other tensor where no program joins them."""
    return _arrived(unused.device) if plan.join else unused


def num_splits(num_pairs: int, longest: int, device: torch.device, tuning: DecodeTuning) -> int:
    """Shares of the keys, a power of two: enough programs to fill the GPU, and at least one block of keys for each."""
    wanted = num_multiprocessors(device) * tuning.programs_per_sm // num_pairs
    most = min(wanted, cdiv(longest, tuning.block_keys))
    return 1 << (most.bit_length() - 1) if most > 1 else 1
