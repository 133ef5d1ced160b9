"""Several new tokens a sequence, causal, over everything the sequence has cached (flash attention).

A tile is a few tokens with all the query heads that share a key/value head: short prompts fill the matrix unit, and
little is computed behind the diagonal.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.kernels.decode_attention import LOG2_E, MIN_ROWS, paged_rows, softmax_step
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl


@dataclass(frozen=True, slots=True)
class PrefillTuning:
    """Sizes of a tile: `rows` = tokens x query heads of a group, against `block_keys` keys at a time."""

    rows: int = 128
    block_keys: int = 128
    num_warps: int = 8
    num_stages: int = 2


@jit
def _attend(
    q,
    acc,
    best,
    total,
    first,
    end,
    last_visible,
    k_ptr,
    v_ptr,
    tables_ptr,
    kv_head,
    scale_log2,
    num_kv_heads: tl.constexpr,
    width: tl.constexpr,
    block_size: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Add keys [first, end) to the running softmax; unless MASKED, every row sees all of them in whole blocks."""
    col = tl.arange(0, WIDTH)
    for at in range(first, end, BLOCK_KEYS):
        key = at + tl.arange(0, BLOCK_KEYS)
        rows = paged_rows(tables_ptr, key, key < end, block_size)
        cells = (rows[:, None] * num_kv_heads + kv_head) * width + col[None, :]
        kv_mask = (key < end)[:, None] & (col < width)[None, :]
        k = tl.load(k_ptr + cells, mask=kv_mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(key[None, :] <= last_visible[:, None], scores, float("-inf"))
        weights, best, total, rescale = softmax_step(scores, best, total)
        v = tl.load(v_ptr + cells, mask=kv_mask, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    return acc, best, total


@jit
def _prefill_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    tables_ptr,
    lens_ptr,
    starts_ptr,
    out_ptr,
    table_stride,
    scale_log2,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    width: tl.constexpr,
    block_size: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """One tile of one sequence and key/value head; a sequence's last tiles, the longest ones, start first."""
    tile, seq, kv_head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    start = tl.load(starts_ptr + seq).to(tl.int64)
    num_new = (tl.load(starts_ptr + seq + 1) - start).to(tl.int32)
    if tile * TOKENS >= num_new:
        return
    length = tl.load(lens_ptr + seq).to(tl.int32)
    row, col = tl.arange(0, TOKENS * GROUP), tl.arange(0, WIDTH)
    token, member = tile * TOKENS + row // GROUP, row % GROUP
    q_mask = ((token < num_new) & (member < group))[:, None] & (col < width)[None, :]
    cells = (((start + token) * num_kv_heads + kv_head) * group + member)[:, None] * width + col[None, :]
    q = tl.load(q_ptr + cells, mask=q_mask, other=0.0)

    cached = length - num_new  # tokens before this chunk
    all_see = (cached + tile * TOKENS + 1) // BLOCK_KEYS * BLOCK_KEYS  # whole blocks that the tile's first token sees
    end = tl.minimum(cached + (tile + 1) * TOKENS, length)
    best = tl.full([TOKENS * GROUP], float("-inf"), tl.float32)
    total = tl.zeros([TOKENS * GROUP], tl.float32)
    acc = tl.zeros([TOKENS * GROUP, WIDTH], tl.float32)
    table_ptr = tables_ptr + seq * table_stride
    last_visible = cached + token
    acc, best, total = _attend(
        q, acc, best, total, 0, all_see, last_visible, k_ptr, v_ptr, table_ptr, kv_head, scale_log2,
        num_kv_heads, width, block_size, WIDTH, BLOCK_KEYS, False,
    )  # fmt: skip
    acc, best, total = _attend(
        q, acc, best, total, all_see, end, last_visible, k_ptr, v_ptr, table_ptr, kv_head, scale_log2,
        num_kv_heads, width, block_size, WIDTH, BLOCK_KEYS, True,
    )  # fmt: skip
    tl.store(out_ptr + cells, acc / total[:, None], mask=q_mask)


def prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    tables: Tensor,
    seq_lens: Tensor,
    starts: Tensor,
    most_new: int,
    out: Tensor,
    tuning: PrefillTuning = PrefillTuning(),
) -> None:
    """Attend contiguous packed rows [T, H, C] into `out` [T, H, C].

    Sequence b owns rows starts[b]..starts[b + 1] (int [B + 1], `most_new` of them at most), which are the last of its
    `seq_lens[b]` cached tokens; its blocks are tables [B, N].
    """
    _, num_heads, width = q.shape
    _, block_size, num_kv_heads, _ = k_cache.shape
    group = num_heads // num_kv_heads
    columns = next_power_of_2(group)
    tokens = max(tuning.rows // q.element_size() * 2 // columns, cdiv(MIN_ROWS, columns))  # float32: half the rows
    _prefill_kernel[(cdiv(most_new, tokens), tables.shape[0], num_kv_heads)](
        q,
        k_cache,
        v_cache,
        tables,
        seq_lens,
        starts,
        out,
        tables.stride(0),
        width**-0.5 * LOG2_E,
        num_kv_heads,
        group,
        width,
        block_size,
        GROUP=columns,
        TOKENS=tokens,
        WIDTH=max(16, next_power_of_2(width)),
        BLOCK_KEYS=tuning.block_keys,
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
    )
