"""Decode attention that begins at the packed projection: head norms, rotation and cache write in its programs.

One launch in place of `qk_norm_rope` and `decode_attention`. Every program of a sequence and key/value head norms and
rotates its queries; the one whose share of the keys holds the newest position does the same to the new key, begins its
softmax with it, and writes it and the value to the cache. Nobody reads that cell in the same launch.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.decode_attention import LOG2_E, DecodePlan, DecodeTuning, arrived, attend_tile, end_share, share_of
from engine.kernels.paged_attention import PagedLayout
from engine.kernels.paths import current
from engine.kernels.programmatic import launch_options, prefetch_lines, wait_then_release
from engine.kernels.qk_norm_rope import HeadNorms, Pair, check_heads, head_weights, norm_turn, raw_heads
from engine.kernels.rope import angles
from engine.kernels.triton_support import constexpr, jit, tl, use_kernel

LINE_BYTES = constexpr(128)  # of the second-level cache
# More warps than `decode_attention` has: a tile of heads is 16 x 128 values, 8 for each of their threads.
TUNING = DecodeTuning(num_warps=8)


@jit
def _heads_decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    k_cache_ptr,
    v_cache_ptr,
    tables_ptr,
    lens_ptr,
    acc_ptr,
    best_ptr,
    total_ptr,
    arrived_ptr,
    out_ptr,
    q_stride,
    k_stride,
    v_stride,
    table_stride,
    num_entries,
    eps,
    scale_log2,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    width: tl.constexpr,
    half: tl.constexpr,
    block_size: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    GROUP: tl.constexpr,
    LEAST: tl.constexpr,
    JOIN: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    """One sequence, key/value head and share of the keys, as `_decode_kernel`.

    With EARLY the step's lengths and tables, and the cache of earlier steps, are asked for before the wait: they were
    written before the kernel that lets this one start did so, which has waited for whatever wrote them.
    """
    seq, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row, line = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)
    # Every row of a tile works on the one key for itself, and every tile is as wide: nothing changes its layout.
    col = tl.broadcast_to(line[None, :], (ROWS, WIDTH))
    q_own, q_other = head_weights(q_weight_ptr, col, width, half)
    k_own, k_other = head_weights(k_weight_ptr, col, width, half)
    if not EARLY:
        wait_then_release(PDL)
    # All that needs no length is asked for together with it, with EARLY all but the heads before the wait.
    length = tl.load(lens_ptr + seq).to(tl.int32)
    slot = tl.load(slots_ptr + seq)
    table_ptr = tables_ptr + seq * table_stride
    likely = split * LEAST if JOIN else 0  # where this share begins if none is longer than the shortest
    lane = tl.arange(0, BLOCK_KEYS)
    block = _blocks(table_ptr, likely + lane, num_entries * block_size, block_size)
    cos, sin = angles(cos_ptr, sin_ptr, seq, col, half)
    ask: tl.constexpr = PDL and (JOIN or SPLITS == 1)  # elsewhere parts of a long context begin anywhere
    if EARLY and ask:
        _ask(
            k_cache_ptr, v_cache_ptr, table_ptr, likely, length - 1, num_entries, kv_head,
            num_kv_heads, width, block_size, LEAST,
        )  # fmt: skip
    if EARLY:
        wait_then_release(PDL)
    q_rows = q_ptr + seq * q_stride + (kv_head * group + row) * width
    q, q_partner = raw_heads(q_rows, col, (row < group) & (col < width), half)
    k_rows = k_ptr + seq * k_stride + kv_head * width + tl.zeros([ROWS, 1], tl.int32)
    k, k_partner = raw_heads(k_rows, col, col < width, half)
    v = tl.load(v_ptr + seq * v_stride + kv_head * width + line, mask=line < width, other=0.0)
    if ask and not EARLY:
        _ask(
            k_cache_ptr, v_cache_ptr, table_ptr, likely, length - 1, num_entries, kv_head,
            num_kv_heads, width, block_size, LEAST,
        )  # fmt: skip

    share, used = share_of(length, SPLITS, BLOCK_KEYS, LEAST, JOIN)
    start, end = tl.minimum(split * share, length), tl.minimum(split * share + share, length)
    if JOIN and (split > 0) & (start == end):
        return
    cached = tl.minimum(end, length - 1)  # the newest key is not read from the cache
    if SPLITS > 1 and start != likely:
        block = _blocks(table_ptr, start + lane, cached, block_size)

    dtype: tl.constexpr = q_ptr.dtype.element_ty
    q = norm_turn(q, q_partner, q_own, q_other, cos, sin, col, eps, width, half).to(dtype)
    k = norm_turn(k, k_partner, k_own, k_other, cos, sin, col, eps, width, half).to(dtype)
    newest = (start < length) & (end == length)
    kept = newest & (slot >= 0)
    target = (slot * num_kv_heads + kv_head) * width
    tl.store(k_cache_ptr + target + col, k, mask=kept & (row == 0) & (col < width))
    tl.store(v_cache_ptr + target + line, v, mask=kept & (line < width))

    # The softmax begins with the newest key, of weight 1.
    score = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale_log2
    best = tl.where(newest, score, float("-inf"))
    total = tl.zeros([ROWS], tl.float32) + newest.to(tl.float32)
    acc = tl.zeros([ROWS, WIDTH], tl.float32) + tl.where(newest, v.to(tl.float32), 0.0)[None, :]
    for at in range(start, cached, BLOCK_KEYS):
        key = at + lane
        visible = key < cached
        rows = _rows(block, key, block_size)
        block = _blocks(table_ptr, key + BLOCK_KEYS, cached, block_size)  # of the next tile
        cells = (rows[:, None] * num_kv_heads + kv_head) * width + line[None, :]
        mask = visible[:, None] & (line < width)[None, :]
        best, total, acc = attend_tile(
            q, k_cache_ptr + cells, v_cache_ptr + cells, mask, visible, best, total, acc, scale_log2
        )
    end_share(
        acc, best, total, acc_ptr, best_ptr, total_ptr, arrived_ptr, out_ptr, seq * num_kv_heads + kv_head, split,
        start < end, used, group, width, SPLITS, ROWS, WIDTH, GROUP, JOIN,
    )  # fmt: skip


@jit
def _blocks(table_ptr, key, end, block_size: tl.constexpr):
    """Cache blocks (int32) of the positions `key` of a sequence, 0 from `end` on."""
    # Divided as unsigned numbers: those of powers of two are then one shift.
    return tl.load(table_ptr + key.to(tl.uint32) // block_size, mask=key < end, other=0).to(tl.int32)


@jit
def _rows(block, key, block_size: tl.constexpr):
    """Cache rows (int64) of the positions `key` in their blocks."""
    return block.to(tl.int64) * block_size + (key.to(tl.uint32) % block_size).to(tl.int64)


@jit
def _ask(
    k_ptr, v_ptr, table_ptr, first, cached, num_entries, kv_head, num_kv_heads: tl.constexpr, width: tl.constexpr,
    block_size: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Ask for the keys and values of KEYS positions from `first` on, as far as they are `cached`, a line at a time."""
    item: tl.constexpr = k_ptr.dtype.element_ty.primitive_bitwidth // 8
    line: tl.constexpr = LINE_BYTES // item
    LINES: tl.constexpr = (width + line - 1) // line
    key = first + tl.arange(0, KEYS)
    block = _blocks(table_ptr, key, num_entries * block_size, block_size)
    rows = _rows(block, key, block_size)
    for i in tl.static_range(LINES):
        cells = (rows * num_kv_heads + kv_head) * width + i * line
        prefetch_lines(k_ptr + cells, key < cached)
        prefetch_lines(v_ptr + cells, key < cached)


def takes_heads(q: Tensor, layout: PagedLayout) -> bool:
    """Whether raw queries [T, H, C] go to `heads_attention`: every row is a decode, and the current way says so."""
    return current().heads_in_attention and use_kernel(q) and layout.num_decodes == len(layout.lengths) == len(q)


def heads_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norms: HeadNorms,
    rotation: Pair,
    caches: Pair,
    slots: Tensor,
    tables: Tensor,
    seq_lens: Tensor,
    tuning: DecodeTuning = TUNING,
    capacity: int | None = None,
) -> Tensor:
    """Raw heads [B, H, C], [B, K, C], [B, K, C] of one new token a sequence -> what they attend to, [B, H, C].

    `qk_norm_rope` and `decode_attention` in one launch, by the kernel alone. The newest of the first `seq_lens` [B]
    positions of each block table [B, N] is this step's: it goes to its slot, which is where the table says, or nowhere
    if that is negative. A sequence of length 0 stores nothing and gives zeros.

    Raises:
        ValueError: shapes, dtypes or memory layouts do not agree.
    """
    check_heads(q, k, v, norms, rotation, caches, slots)
    num_seqs, num_heads, width = q.shape
    _, block_size, num_kv_heads, _ = caches[0].shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not num_seqs:
        return out
    plan = DecodePlan.make(num_seqs, num_heads, caches[0], tables, tuning, capacity)
    parts = plan.parts(out)
    cos, sin = (table.contiguous() for table in rotation)
    options = launch_options(q.device)
    _heads_decode_kernel[plan.grid](
        q,
        k,
        v,
        norms.q,
        norms.k,
        cos,
        sin,
        slots,
        *caches,
        tables,
        seq_lens,
        *parts,
        arrived(plan, tables),
        out,
        *(q.stride(0), k.stride(0), v.stride(0), tables.stride(0), tables.shape[1]),
        norms.eps,
        width**-0.5 * LOG2_E,
        num_kv_heads,
        half=cos.shape[1],
        block_size=block_size,
        EARLY=bool(options["PDL"]) and current().keys_early,
        **plan.constants(),
        **options,
    )
    plan.finish(parts, out)
    return out
