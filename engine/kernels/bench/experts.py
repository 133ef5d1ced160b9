"""Cases of the mixture of experts: paths and tunings side by side where both are possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.kernels.bench.case import Case, Outputs, Run, Source
from engine.kernels.fused_moe import SharedExpert, fused_moe_reference, moe_few, moe_grouped
from engine.kernels.moe_few import FewTuning
from engine.kernels.moe_grouped import GroupedTuning
from engine.kernels.moe_single import SingleTuning, moe_single
from engine.quantised import Weight, dequantised

MOST_FEW = 64  # tokens up to which the path without sorting is tried


@dataclass(frozen=True, slots=True)
class Routed:
    """Tokens of several calls, [sets, T, ...], with uniformly random choices; `distinct` is the mean over the calls."""

    x: Tensor
    ids: Tensor
    weights: Tensor
    distinct: float

    @staticmethod
    def draw(source: Source, num_tokens: int) -> Routed:
        """New ones at the source's sizes."""
        s = source.sizes
        x = source.normal(s.num_sets, num_tokens, s.dim)
        scores = torch.rand(s.num_sets, num_tokens, s.num_experts, device=source.device)
        ids = scores.topk(s.rule.top_k, dim=-1).indices
        weights = torch.rand(s.num_sets, num_tokens, s.rule.top_k, device=source.device)
        return Routed(x, ids, weights, sum(len(chosen.unique()) for chosen in ids) / s.num_sets)


@dataclass(frozen=True, slots=True)
class Tunings:
    """By name: without sorting, sorted at decode sizes, sorted at those of prefill."""

    few: Mapping[str, FewTuning]
    grouped: Mapping[str, GroupedTuning]
    large: Mapping[str, GroupedTuning]


FEW_TUNINGS = {
    "few f16": FewTuning(16, 256, 32, 256),
    "few f32": FewTuning(32, 128, 64, 128),
    "few f32 k256": FewTuning(32, 256, 64, 256, num_stages=3),
    "few f64": FewTuning(64, 128, 128, 128, num_stages=3),
    "few f64 d64": FewTuning(64, 128, 64, 128, num_stages=4),
    "few f64 s3 d64 s4": FewTuning(64, 128, 64, 128, num_stages=3, down_stages=4),
    "few f64 s4 d128 s3": FewTuning(64, 128, 128, 128, num_stages=4, down_stages=3),
    "few f64 k64 d64": FewTuning(64, 64, 64, 128, num_stages=4),
    "few f64 k64 s4 d128": FewTuning(64, 64, 128, 64, num_stages=4),
    "few f64 gathered": FewTuning(64, 128, 128, 128, num_stages=3, rows=16),
    "few f64 d64 gathered": FewTuning(64, 128, 64, 128, num_stages=4, rows=16),
    "few f64 s3 d64 s4 gathered": FewTuning(64, 128, 64, 128, num_stages=3, rows=16, down_stages=4),
    "few f64 k64 s5 d64 gathered": FewTuning(64, 64, 64, 128, num_stages=5, rows=16, down_stages=4),
    "few f16 gathered": FewTuning(16, 128, 64, 128, rows=16),
    "few f32 gathered": FewTuning(32, 128, 64, 128, rows=16),
}
SINGLE_TUNINGS = {
    "single": None,
    "single f1 d2": SingleTuning(1, 2),
    "single f2 d2": SingleTuning(2, 2),
    "single f4 d8 warps 8": SingleTuning(4, 8, 8),
}
GROUPED_TUNINGS = {
    "rows 16": GroupedTuning(16, 64, 128, 64, 128, 4, 3),
    "rows 16 f32": GroupedTuning(16, 32, 128, 64, 128, 4, 4),
    "rows 16 s4": GroupedTuning(16, 64, 128, 64, 128, 4, 4),
    "rows 16 d128": GroupedTuning(16, 64, 128, 128, 128, 4, 3),
    "rows 16 k64": GroupedTuning(16, 64, 64, 64, 128, 4, 5),
    "rows 32": GroupedTuning(32, 64, 128, 64, 128, 4, 3),
}
LARGE_TUNINGS = {
    "rows 64": GroupedTuning(64, 64, 64, 128, 64, 4, 4),
    "rows 64 f128": GroupedTuning(64, 128, 64, 256, 64, 8, 3),
    "rows 128": GroupedTuning(128, 128, 64, 256, 64, 8, 3),
    "rows 128 stages 4": GroupedTuning(128, 128, 64, 128, 64, 8, 4),
    "rows 128 tail 64 two downs stages 4": GroupedTuning(128, 128, 64, 128, 64, 8, 4, tail=64),
    "rows 128 f64": GroupedTuning(128, 64, 64, 128, 64, 8, 4),
    # Programs of the second product, or of both, that a multiprocessor holds at a time; above it is one.
    "rows 128 two downs": GroupedTuning(128, 128, 64, 128, 64, 8, 3),
    "rows 128 three downs": GroupedTuning(128, 128, 64, 64, 64, 8, 3, down_warps=4),
    "rows 128 two of each": GroupedTuning(128, 64, 64, 128, 64, 8, 3),
    # Tiles that are nearly empty multiplied as smaller ones.
    "rows 128 tail 64": GroupedTuning(128, 128, 64, 256, 64, 8, 3, tail=64),
    "rows 128 tail 32 two downs": GroupedTuning(128, 128, 64, 128, 64, 8, 3, tail=32),
    "rows 128 tail 64 two downs": GroupedTuning(128, 128, 64, 128, 64, 8, 3, tail=64),
    "rows 64 tail 32": GroupedTuning(64, 64, 64, 128, 64, 4, 4, tail=32),
    "rows 64 tail 16": GroupedTuning(64, 64, 64, 128, 64, 4, 4, tail=16),
}

TUNINGS = Tunings(FEW_TUNINGS, GROUPED_TUNINGS, LARGE_TUNINGS)


def expert_cases(source: Source) -> Iterator[Case]:
    """All batches over one layer's weights, which are far larger than any cache."""
    s = source.sizes
    w13 = source.normal(s.num_experts, 2 * s.expert_width, s.dim, scale=s.dim**-0.5)
    w2 = source.normal(s.num_experts, s.dim, s.expert_width, scale=s.expert_width**-0.5)
    shared = SharedExpert(
        source.normal(2 * s.expert_width, s.dim, scale=s.dim**-0.5),
        source.normal(s.dim, s.expert_width, scale=s.expert_width**-0.5),
    )
    for num_tokens in (*s.decodes, *s.prefills):
        yield experts_case(source, num_tokens, w13, w2, shared)


def both_paths(
    source: Source, routed: Routed, w13: Weight, w2: Weight, shared: SharedExpert, tunings: Tunings
) -> dict[str, Run]:
    """The experts by the path without sorting where tokens are few, and by that with it."""
    x, ids, weights = routed.x, routed.ids, routed.weights
    num_tokens = x.shape[1]

    def few(tuning: FewTuning | None) -> Run:
        return lambda i: (moe_few(x[i], w13, w2, ids[i], weights[i], shared, tuning),)

    def grouped(tuning: GroupedTuning | None) -> Run:
        return lambda i: (moe_grouped(x[i], w13, w2, ids[i], weights[i], shared, tuning),)

    variants: dict[str, Run] = {}
    if num_tokens <= MOST_FEW:
        variants["few"] = few(None)
        variants |= {name: few(tuning) for name, tuning in tunings.few.items()}
    variants["grouped"] = grouped(None)
    sorted_ones = tunings.grouped if num_tokens <= max(source.sizes.decodes, default=0) else tunings.large
    return variants | {name: grouped(tuning) for name, tuning in sorted_ones.items()}


def experts_case(source: Source, num_tokens: int, w13: Tensor, w2: Tensor, shared: SharedExpert) -> Case:
    """Routed and shared experts of `num_tokens` tokens."""
    s, routed = source.sizes, Routed.draw(source, num_tokens)
    x, ids, weights = routed.x, routed.ids, routed.weights

    def single(tuning: SingleTuning | None) -> Run:
        both = (dequantised(shared.w13, source.dtype), dequantised(shared.w2, source.dtype))

        def call(i: int) -> Outputs:
            return (moe_single(x[i], w13, w2, ids[i], weights[i], both, torch.empty_like(x[i]), tuning),)

        return call

    def reference(dtype: torch.dtype, i: int) -> Outputs:
        return (_reference(x[i].to(dtype), w13, w2, ids[i], weights[i], shared),)

    variants: dict[str, Run] = {}
    if num_tokens == 1:
        variants |= {name: single(tuning) for name, tuning in SINGLE_TUNINGS.items()}
    variants |= both_paths(source, routed, w13, w2, shared, TUNINGS)
    expert_size = 3 * s.expert_width * s.dim
    return Case(
        "experts",
        f"T={num_tokens} distinct={routed.distinct:.1f}",
        int(((routed.distinct + 1) * expert_size + 2 * num_tokens * s.dim) * source.item_bytes),
        2 * expert_size * num_tokens * (s.rule.top_k + 1),
        s.num_sets,
        variants,
        partial(reference, source.dtype),
        partial(reference, torch.float32),
    )


def _reference(x: Tensor, w13: Tensor, w2: Tensor, ids: Tensor, weights: Tensor, shared: SharedExpert) -> Tensor:
    """The reference in the dtype of `x`, with only the chosen experts converted."""
    if x.dtype == w13.dtype:
        return fused_moe_reference(x, w13, w2, ids, weights, shared)
    chosen, local = ids.unique(return_inverse=True)
    wide = SharedExpert(dequantised(shared.w13, x.dtype).to(x.dtype), dequantised(shared.w2, x.dtype).to(x.dtype))
    return fused_moe_reference(x, w13[chosen].to(x.dtype), w2[chosen].to(x.dtype), local, weights, wide)
