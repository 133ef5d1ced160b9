"""Cases of attention over the paged cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from engine.kernels.bench.case import Case, Outputs, Run, Source
from engine.kernels.decode_attention import DecodeTuning, decode_attention
from engine.kernels.heads_attention import TUNING, heads_attention
from engine.kernels.paged_attention import PagedLayout, paged_attention_reference
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.prefill_attention import PrefillTuning, prefill_attention
from engine.kernels.qk_norm_rope import HeadNorms, Pair, qk_norm_rope, qk_norm_rope_reference

# Rows are found through the block table, so two stages of the pipeline fetch table entries and the rest the rows:
# 3 and 4 stages hold one block of keys ahead, 5 hold two.
DECODE_TUNINGS = {
    "default": DecodeTuning(),
    "stages 5": DecodeTuning(num_stages=5),
    "keys 128": DecodeTuning(block_keys=128),
    "keys 32": DecodeTuning(block_keys=32, num_stages=5),
    "programs 1": DecodeTuning(programs_per_sm=1),
    "programs 4": DecodeTuning(programs_per_sm=4),
}
JOIN_TUNINGS = {
    "joined": DecodeTuning(),
    "joined 16": DecodeTuning(most_joined=16),
    "joined 64": DecodeTuning(most_joined=64),
    "joined keys 32": DecodeTuning(block_keys=32, num_stages=5),
}
HEADS_TUNINGS = {
    "default": TUNING,
    "warps 4": replace(TUNING, num_warps=4),
    "keys 128": replace(TUNING, block_keys=128),
    "keys 128 stages 2": replace(TUNING, block_keys=128, num_stages=2),
    "stages 2": replace(TUNING, num_stages=2),
}
PREFILL_TUNINGS = {
    "default": PrefillTuning(),
    "keys 64": PrefillTuning(block_keys=64, num_stages=3),
    "rows 64": PrefillTuning(rows=64, block_keys=64, num_warps=4, num_stages=3),
    "stages 3": PrefillTuning(num_stages=3),
    "keys 64 stages 5": PrefillTuning(block_keys=64, num_stages=5),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of `lengths` cached tokens, the last `counts` of them new, with blocks scattered over the cache."""

    k_cache: Tensor
    v_cache: Tensor
    layout: PagedLayout

    @classmethod
    def make(cls, source: Source, counts: Sequence[int], lengths: Sequence[int]) -> Batch:
        """Random keys and values; block 0 stays unused."""
        s = source.sizes
        blocks = [-(-length // s.block_size) for length in lengths]
        tables = torch.zeros(len(lengths), max(blocks), dtype=torch.int64, device=source.device)
        order = torch.randperm(sum(blocks), device=source.device) + 1
        for row, mine in zip(tables, order.split(blocks), strict=True):
            row[: len(mine)] = mine
        shape = (sum(blocks) + 1, s.block_size, s.num_kv_heads, s.head_dim)
        starts = (0, *accumulate(counts))
        num_decodes = 0 if max(counts) > 1 else len(counts)
        seq_lens = torch.tensor(lengths, device=source.device)
        layout = PagedLayout(tables, seq_lens, num_decodes, starts, tuple(lengths))
        return cls(source.normal(*shape), source.normal(*shape), layout)

    def newest_slots(self) -> Tensor:
        """Where the newest token of each sequence lies, int64 [B]."""
        newest, block_size = self.layout.seq_lens - 1, self.k_cache.shape[1]
        blocks = self.layout.block_tables.gather(1, (newest // block_size)[:, None])[:, 0]
        return blocks * block_size + newest % block_size

    def reference(self, q: Tensor) -> Outputs:
        """The reference in the dtype of `q`."""
        return (paged_attention_reference(q, self.k_cache.to(q.dtype), self.v_cache.to(q.dtype), self.layout),)


def attention_cases(source: Source) -> Iterator[Case]:
    """Decodes at every batch and context, whole prompts, and chunks behind as much context."""
    s = source.sizes
    for context in s.contexts:
        for num_seqs in s.decodes:
            yield decode_case(source, num_seqs, context)
            yield heads_case(source, num_seqs, context)
    for num_tokens in s.prefills:
        yield prefill_case(source, [num_tokens], [num_tokens])
        yield prefill_case(source, [num_tokens // 4] * 4, [num_tokens // 2] * 4)


def decode_case(source: Source, num_seqs: int, context: int) -> Case:
    """One new token for each of `num_seqs` sequences of `context` tokens."""
    s = source.sizes
    batches = [Batch.make(source, [1] * num_seqs, [context] * num_seqs) for _ in range(s.num_sets)]
    q = source.normal(s.num_sets, num_seqs, s.num_heads, s.head_dim)

    def run(tuning: DecodeTuning, path: str = "plain") -> Run:
        def call(i: int) -> Outputs:
            out, batch = torch.empty_like(q[i]), batches[i]
            tables, seq_lens = batch.layout.block_tables, batch.layout.seq_lens
            with taking(VARIANTS[path]):
                decode_attention(q[i], batch.k_cache, batch.v_cache, tables, seq_lens, out, tuning)
            return (out,)

        return call

    keys = num_seqs * context
    return Case(
        "decode_attention",
        f"B={num_seqs} context={context}",
        2 * (keys * s.num_kv_heads + num_seqs * s.num_heads) * s.head_dim * source.item_bytes,
        4 * keys * s.num_heads * s.head_dim,
        s.num_sets,
        {name: run(tuning) for name, tuning in DECODE_TUNINGS.items()}
        | {name: run(tuning, "join") for name, tuning in JOIN_TUNINGS.items()},
        lambda i: batches[i].reference(q[i]),
        lambda i: batches[i].reference(q[i].float()),
    )


def heads_case(source: Source, num_seqs: int, context: int) -> Case:
    """From the packed product to what the heads attend to: in two launches, and in one as it is served."""
    s = source.sizes
    batches = [Batch.make(source, [1] * num_seqs, [context] * num_seqs) for _ in range(s.num_sets)]
    slots = [batch.newest_slots() for batch in batches]
    heads = (s.num_heads, s.num_kv_heads, s.num_kv_heads)
    packed = source.normal(s.num_sets, num_seqs, sum(heads), s.head_dim)
    norms = HeadNorms(source.normal(s.head_dim), source.normal(s.head_dim), 1e-6)
    cos, sin = source.normal(2, num_seqs, s.half)

    def raw(i: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, HeadNorms, Pair, Pair, Tensor]:
        """Arguments that both ways begin with."""
        q, k, v = packed[i].to(dtype).split(heads, dim=1)
        weights = HeadNorms(norms.q.to(dtype), norms.k.to(dtype), norms.eps)
        caches = batches[i].k_cache.to(dtype), batches[i].v_cache.to(dtype)
        return q, k, v, weights, (cos.to(dtype), sin.to(dtype)), caches, slots[i]

    def apart(i: int) -> Outputs:
        arguments, layout = raw(i, source.dtype), batches[i].layout
        with taking(VARIANTS["lean but heads"]):
            q = qk_norm_rope(*arguments)
            out = torch.empty_like(q)
            decode_attention(q, *arguments[5], layout.block_tables, layout.seq_lens, out)
        return (out,)

    def together(path: str, tuning: DecodeTuning) -> Run:
        def call(i: int) -> Outputs:
            layout = batches[i].layout
            with taking(VARIANTS[path]):
                out = heads_attention(*raw(i, source.dtype), layout.block_tables, layout.seq_lens, tuning)
            return (out,)

        return call

    def reference(dtype: torch.dtype) -> Run:
        def call(i: int) -> Outputs:
            arguments = raw(i, dtype)
            q = qk_norm_rope_reference(*arguments)
            return (paged_attention_reference(q, *arguments[5], batches[i].layout),)

        return call

    variants: dict[str, Run] = {"two launches": apart}
    variants |= {name: together("lean but keys", tuning) for name, tuning in HEADS_TUNINGS.items()}
    variants |= {f"early {name}": together("lean", tuning) for name, tuning in HEADS_TUNINGS.items()}
    keys = num_seqs * context
    return Case(
        "heads_attention",
        f"B={num_seqs} context={context}",
        2 * (keys * s.num_kv_heads + num_seqs * sum(heads)) * s.head_dim * source.item_bytes,
        4 * keys * s.num_heads * s.head_dim,
        s.num_sets,
        variants,
        reference(source.dtype),
        reference(torch.float32),
    )


def prefill_case(source: Source, counts: Sequence[int], lengths: Sequence[int]) -> Case:
    """`counts` new tokens at the end of sequences of `lengths` tokens."""
    s = source.sizes
    batches = [Batch.make(source, counts, lengths) for _ in range(s.num_sets)]
    q = source.normal(s.num_sets, sum(counts), s.num_heads, s.head_dim)

    def run(tuning: PrefillTuning) -> Run:
        def call(i: int) -> Outputs:
            out, batch, layout = torch.empty_like(q[i]), batches[i], batches[i].layout
            assert layout.prefill_starts is not None
            tables, starts = layout.block_tables, layout.prefill_starts
            prefill_attention(
                q[i], batch.k_cache, batch.v_cache, tables, layout.seq_lens, starts, layout.most_new, out, tuning
            )
            return (out,)

        return call

    visible = sum(new * length - new * (new - 1) // 2 for new, length in zip(counts, lengths, strict=True))
    return Case(
        "prefill_attention",
        f"{len(counts)} x {counts[0]} of {lengths[0]}",
        2 * (sum(lengths) * s.num_kv_heads + sum(counts) * s.num_heads) * s.head_dim * source.item_bytes,
        4 * visible * s.num_heads * s.head_dim,
        s.num_sets,
        {name: run(tuning) for name, tuning in PREFILL_TUNINGS.items()},
        lambda i: batches[i].reference(q[i]),
        lambda i: batches[i].reference(q[i].float()),
    )
