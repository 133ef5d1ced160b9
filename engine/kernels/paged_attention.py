"""Causal attention of packed tokens over a paged key/value cache.

Keys and values of a sequence lie in blocks named by its block table. A step holds decode rows (one new token each)
followed by prefill chunks; both read everything cached so far, this step's tokens included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.decode_attention import decode_attention
from engine.kernels.prefill_attention import prefill_attention
from engine.kernels.triton_support import use_kernel


@dataclass(frozen=True, slots=True)
class PagedLayout:
    """Where the sequences of a step lie, in the packed tokens and in the cache.

    The first `num_decodes` sequences have one new token each; the others follow in order.
    `block_tables` [B, N] is padded with block 0, `seq_lens` [B] counts cached tokens after this step; a decode of
    length 0 pads the batch and attends to nothing. `query_starts` and `lengths` are the same bounds as Python numbers,
    so that no step waits for the device. `prefill_starts` is made of them, once a step, where there are prefills.
    `capacity` is the longest sequence that there may be: keys are shared out for that, so that one kernel serves all
    lengths; None is what the tables hold.
    """

    block_tables: Tensor  # int64 [B, N]
    seq_lens: Tensor  # int64 [B]
    num_decodes: int
    query_starts: tuple[int, ...]  # B + 1 bounds into T
    lengths: tuple[int, ...]  # B, = seq_lens
    capacity: int | None = None
    prefill_starts: Tensor | None = field(init=False)  # int64 bounds of the prefills in T, on the device

    def __post_init__(self) -> None:
        starts = None
        if self.num_decodes < len(self.lengths):
            bounds = torch.tensor(self.query_starts[self.num_decodes :])
            starts = bounds.to(self.block_tables.device, non_blocking=True)
        object.__setattr__(self, "prefill_starts", starts)

    @property
    def most_new(self) -> int:
        """The most new tokens that a prefill has."""
        bounds = self.query_starts[self.num_decodes :]
        return max(end - start for start, end in pairwise(bounds))


def paged_attention_reference(q: Tensor, k_cache: Tensor, v_cache: Tensor, layout: PagedLayout) -> Tensor:
    """Attend [T, H, C] over caches [num_blocks, block_size, K, C] -> [T, H, C].

    Scale C**-0.5; query head h reads key/value head h // (H / K); softmax in float32.
    """
    out = torch.empty_like(q)
    d = layout.num_decodes
    if d:
        out[:d] = _decode(
            q[:d], k_cache, v_cache, layout.block_tables[:d], layout.seq_lens[:d], max(layout.lengths[:d])
        )
    # Few sequences prefill in one step, and each is a matrix product of its own size: padding them would cost more.
    for i in range(d, len(layout.lengths)):
        rows = slice(layout.query_starts[i], layout.query_starts[i + 1])
        out[rows] = _prefill(q[rows], k_cache, v_cache, layout.block_tables[i], layout.lengths[i])
    return out


def _gather(cache: Tensor, tables: Tensor, length: int) -> Tensor:
    """Blocks of `tables` [B, N] as sequences cut to `length`: -> [B, K, length, C]."""
    _, block_size, num_heads, width = cache.shape
    blocks = tables[:, : -(-length // block_size)]
    rows = cache.index_select(0, blocks.flatten())
    return rows.view(len(tables), -1, num_heads, width)[:, :length].transpose(1, 2)


def _decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, tables: Tensor, seq_lens: Tensor, longest: int) -> Tensor:
    """One query row per sequence: [B, H, C] -> [B, H, C]."""
    num_seqs, num_heads, width = q.shape
    k, v = _gather(k_cache, tables, longest), _gather(v_cache, tables, longest)
    # The query heads of one key/value head become its query rows: no copy of keys and values per query head.
    grouped = q.view(num_seqs, k.shape[1], num_heads // k.shape[1], width)
    visible = torch.arange(longest, device=q.device) < seq_lens[:, None]
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=visible[:, None, None, :])
    return out.reshape(num_seqs, num_heads, width)


def _prefill(q: Tensor, k_cache: Tensor, v_cache: Tensor, table: Tensor, length: int) -> Tensor:
    """The last rows of one sequence: [S', H, C] over `length` >= S' cached tokens -> [S', H, C]."""
    num_new = q.shape[0]
    k, v = _gather(k_cache, table[None], length), _gather(v_cache, table[None], length)
    query = q.transpose(0, 1)[None]
    if num_new == length:
        out = F.scaled_dot_product_attention(query, k, v, is_causal=True, enable_gqa=True)
    else:
        last_key = torch.arange(length - num_new, length, device=q.device)
        visible = torch.arange(length, device=q.device)[None, :] <= last_key[:, None]
        out = F.scaled_dot_product_attention(query, k, v, attn_mask=visible, enable_gqa=True)
    return out[0].transpose(0, 1)


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, layout: PagedLayout) -> Tensor:
    """Checked form of `paged_attention_reference`.

    Raises:
        ValueError: the layout does not cover `q`, or heads do not group.
    """
    if layout.query_starts[-1] != q.shape[0] or q.shape[1] % k_cache.shape[2] or q.shape[2] != k_cache.shape[3]:
        raise ValueError(
            f"paged_attention: q {tuple(q.shape)} with cache {tuple(k_cache.shape)} and {layout.query_starts[-1]} rows"
        )
    if not use_kernel(q):
        return paged_attention_reference(q, k_cache, v_cache, layout)
    q = q.contiguous()
    out = torch.empty_like(q)
    tables, seq_lens, d = layout.block_tables, layout.seq_lens, layout.num_decodes
    if d:
        decode_attention(q[:d], k_cache, v_cache, tables[:d], seq_lens[:d], out[:d], capacity=layout.capacity)
    if layout.prefill_starts is not None:
        starts = layout.prefill_starts
        prefill_attention(q, k_cache, v_cache, tables[d:], seq_lens[d:], starts, layout.most_new, out)
    return out
