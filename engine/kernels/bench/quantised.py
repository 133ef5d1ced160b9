"""Cases of products and experts whose weights are packed: checked against the very numbers that are packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from engine.kernels.bench.case import Case, Outputs, Run, Source
from engine.kernels.bench.experts import MOST_FEW, Routed, Tunings, both_paths
from engine.kernels.fused_moe import FEW_QUANTISED, SharedExpert, fused_moe_reference
from engine.kernels.linear import LinearTuning, linear, linear_reference, skinny
from engine.kernels.moe_few import FewTuning
from engine.kernels.moe_grouped import GroupedTuning
from engine.kernels.moe_single import SingleTuning
from engine.kernels.moe_single_fp8 import fits_single_fp8, moe_single_fp8
from engine.kernels.thin import MOST_FEATURES, MOST_ROWS, ThinTuning, thin
from engine.quantised import BLOCK, GROUP, Format, Quantised, QuantisedWeight

FEW_TUNINGS = {
    "few f16 w1": FewTuning(16, 128, 16, 128, num_warps=1, rows=16),
    "few f32 w2 s3": FewTuning(32, 128, 32, 128, num_warps=2, num_stages=3, rows=16),
    "few f32 w2 s6": FewTuning(32, 128, 32, 128, num_warps=2, num_stages=6, rows=16),
    "few f64 w4": FewTuning(64, 128, 64, 128, num_warps=4, rows=16),
    "few f64 w2": FewTuning(64, 128, 64, 128, num_warps=2, num_stages=3, rows=16),
    "few f32 w4 all": FewTuning(32, 128, 64, 128, num_warps=4),
    "few f64 w2 all": FewTuning(64, 128, 64, 128, num_warps=2, num_stages=3),
}
SPLIT = FewTuning(64, 128, 128, 128, num_warps=4, num_stages=3, rows=16, split=True, registers=168)
# Names: features of a tile in the first and in the second product, warps, stages; three programs of 168 registers fit.
SPLIT_TUNINGS = {
    "widened f32 w2 s3": FEW_QUANTISED,  # what `few` is where rows cannot be split
    "split f64 d64 s3": replace(SPLIT, block_d=64),
    "split f64 d64 s4": replace(SPLIT, block_d=64, num_stages=4),
    "split f64 d64 s6": replace(SPLIT, block_d=64, num_stages=6, down_stages=4, registers=0),
    "split f64 d128 s3": SPLIT,
    "split f64 d128 s4": replace(SPLIT, num_stages=4, registers=0),
    "split f64 d128 s6": replace(SPLIT, num_stages=6, down_stages=4, registers=0),
    "split f64 d128 s4/3": replace(SPLIT, num_stages=4, down_stages=3, registers=0),
    "split f64 w8 s3": replace(SPLIT, num_warps=8, registers=0),
    "split f128 w8 s3": replace(SPLIT, block_f=128, num_warps=8, down_warps=4, registers=0),
    "split f32 d64 s4": replace(SPLIT, block_f=32, block_d=64, num_stages=4, registers=0),
    "split f32 d64 s6": replace(SPLIT, block_f=32, block_d=64, num_stages=6, down_stages=4, registers=0),
    "split f16 d32 w2": FewTuning(16, 128, 32, 128, 2, 4, 16, split=True),  # no warpgroup: Triton widens to float16
    "split rows 8": replace(SPLIT, rows=8, registers=0),
    "split rows 32": replace(SPLIT, rows=32, registers=0),
}
GROUPED_TUNINGS = {
    "rows 16 f32 w2": GroupedTuning(16, 32, 128, 32, 128, 2, 4),
    "rows 16 f64 w2": GroupedTuning(16, 64, 128, 64, 128, 2, 4),
    "rows 16 f64 w4": GroupedTuning(16, 64, 128, 64, 128, 4, 4),
}
LARGE_TUNINGS = {
    "rows 64 f64 w4": GroupedTuning(64, 64, 128, 64, 128, 4, 3),
    "rows 64 f64 k64": GroupedTuning(64, 64, 64, 128, 64, 4, 4),
    "rows 128 f64 w8": GroupedTuning(128, 64, 128, 128, 128, 8, 3),
    "rows 128 f64 k64": GroupedTuning(128, 64, 64, 128, 64, 8, 4),
    "rows 128 f128 k64": GroupedTuning(128, 128, 64, 128, 64, 8, 3),
}
SPLIT_GROUPED = {
    "split rows 16 f64 w4": GroupedTuning(16, 64, 128, 128, 128, 4, 3, split=True),
    "split rows 16 f64 d64": GroupedTuning(16, 64, 128, 64, 128, 4, 4, split=True),
    "split rows 32 f64 w4": GroupedTuning(32, 64, 128, 128, 128, 4, 3, split=True),
}
SPLIT_LARGE = {
    "split rows 32 w4": GroupedTuning(32, 64, 128, 64, 128, 4, 3, split=True),
    "split rows 64 w4": GroupedTuning(64, 32, 128, 64, 128, 4, 3, split=True),
    "split rows 64 w8": GroupedTuning(64, 64, 128, 128, 128, 8, 3, split=True),
    "split rows 64 d64": GroupedTuning(64, 64, 128, 64, 128, 8, 3, down_warps=4, split=True),
    "split rows 64 f32": GroupedTuning(64, 32, 128, 64, 128, 4, 4, split=True),
}
TUNINGS: dict[Format, Tunings] = {
    "fp8": Tunings(FEW_TUNINGS | SPLIT_TUNINGS, GROUPED_TUNINGS | SPLIT_GROUPED, LARGE_TUNINGS | SPLIT_LARGE),
    "int4": Tunings(FEW_TUNINGS, GROUPED_TUNINGS, LARGE_TUNINGS),
}
SINGLE_TUNINGS = {
    "single": None,
    "single f4 d8": SingleTuning(4, 8),
    "single f2 d8": SingleTuning(2, 8),
    "single f1 d2": SingleTuning(1, 2),
    "single f4 d4 w8": SingleTuning(4, 4, 8),
}
THIN_TUNINGS = {
    "thin": None,
    "thin n2": ThinTuning(2, 4),
    "thin n4": ThinTuning(4, 4),
    "thin n8 w8": ThinTuning(8, 8),
}
LINEAR_TUNINGS = {
    "n16 w1": LinearTuning(16, 128, 1, 6),
    "n32 w2": LinearTuning(32, 128, 2, 4),
    "n32 w2 x8": LinearTuning(32, 128, 2, 4, programs_per_sm=8),
    "n32 w2 x2": LinearTuning(32, 128, 2, 6, programs_per_sm=2),
    "n64 w2": LinearTuning(64, 128, 2, 4),
    "n64 w4": LinearTuning(64, 128, 4, 4),
    "split n64 w4": LinearTuning(64, 128, 4, 4, split=True),
    "split n64 w4 s6 x2": LinearTuning(64, 128, 4, 6, programs_per_sm=2, split=True),
    "split n128 w8": LinearTuning(128, 128, 8, 3, programs_per_sm=2, split=True),
}


def packed(source: Source, format: Format, *shape: int) -> Quantised:
    """Random weights, packed matrix by matrix so that no layer exists in full."""
    with torch.device(source.device):
        value = QuantisedWeight(format, shape, (BLOCK, BLOCK)).value
    for part in [value] if len(shape) == 2 else [value[i] for i in range(shape[0])]:
        part.fill(source.normal(*shape[-2:], scale=shape[-1] ** -0.5))
    return value


def quantised_expert_cases(format: Format, source: Source) -> Iterator[Case]:
    """All batches over one layer's weights in `format`; the shared expert is fp8."""
    s = source.sizes
    if format == "int4" and (s.dim % GROUP or s.expert_width % GROUP):
        raise ValueError(f"int4 experts need widths in groups of {GROUP}, not {s.dim} and {s.expert_width}")
    w13 = packed(source, format, s.num_experts, 2 * s.expert_width, s.dim)
    w2 = packed(source, format, s.num_experts, s.dim, s.expert_width)
    shared = SharedExpert(
        packed(source, "fp8", 2 * s.expert_width, s.dim), packed(source, "fp8", s.dim, s.expert_width)
    )
    for num_tokens in (*s.decodes, *s.prefills):
        yield _experts_case(source, num_tokens, w13, w2, shared)


def _experts_case(source: Source, num_tokens: int, w13: Quantised, w2: Quantised, shared: SharedExpert) -> Case:
    s, routed = source.sizes, Routed.draw(source, num_tokens)
    x, ids, weights = routed.x, routed.ids, routed.weights

    def reference(dtype: torch.dtype, i: int) -> Outputs:
        return (fused_moe_reference(x[i].to(dtype), w13, w2, ids[i], weights[i], shared),)

    variants = _single(routed, w13, w2, shared) if num_tokens == 1 else {}
    of_an_expert = (w13.num_bytes + w2.num_bytes) / s.num_experts
    of_the_shared = sum(w.num_bytes for w in (shared.w13, shared.w2) if isinstance(w, Quantised))
    return Case(
        f"experts-{w13.format}",
        f"T={num_tokens} distinct={routed.distinct:.1f}",
        int(routed.distinct * of_an_expert) + of_the_shared + 2 * num_tokens * s.dim * source.item_bytes,
        6 * s.expert_width * s.dim * num_tokens * (s.rule.top_k + 1),
        s.num_sets,
        variants | both_paths(source, routed, w13, w2, shared, TUNINGS[w13.format]),
        partial(reference, source.dtype),
        partial(reference, torch.float32),
    )


def _single(routed: Routed, w13: Quantised, w2: Quantised, shared: SharedExpert) -> dict[str, Run]:
    """The experts of one token from whole rows in registers."""
    both = (shared.w13, shared.w2)
    if not fits_single_fp8(w13, w2, both):
        return {}
    x, ids, weights = routed.x, routed.ids, routed.weights

    def run(tuning: SingleTuning | None) -> Run:
        def call(i: int) -> Outputs:
            out = torch.empty_like(x[i])
            return (moe_single_fp8(x[i], w13, w2, ids[i], weights[i], both, out, tuning),)  # type: ignore[arg-type]

        return call

    return {name: run(tuning) for name, tuning in SINGLE_TUNINGS.items()}


def quantised_linear_cases(source: Source) -> Iterator[Case]:
    """The projections of an attention layer, and the output head at decode sizes."""
    s = source.sizes
    heads = s.num_heads * s.head_dim
    shapes = {
        "qkv": (heads + 2 * s.num_kv_heads * s.head_dim, s.dim),
        "dense": (s.dim, heads),
        "head": (s.vocab // 2, s.dim),
    }
    for name, shape in shapes.items():
        matrices = [packed(source, "fp8", *shape) for _ in range(s.num_sets)]
        for num_tokens in (*s.decodes, *(() if name == "head" else s.prefills)):
            yield _linear_case(source, name, num_tokens, matrices)


def _linear_case(source: Source, name: str, num_tokens: int, matrices: list[Quantised]) -> Case:
    n, k = matrices[0].shape
    x = source.normal(len(matrices), num_tokens, k)

    def run(tuning: LinearTuning) -> Run:
        return lambda i: (skinny(x[i], matrices[i], tuning),)

    def rows_in_registers(tuning: ThinTuning | None) -> Run:
        return lambda i: (thin(x[i], matrices[i], tuning=tuning),)

    def exact(i: int) -> Outputs:
        return (linear_reference(x[i].float(), matrices[i]),)

    def library(i: int, wide: Tensor) -> Outputs:
        return (torch.nn.functional.linear(x[i], wide),)

    variants: dict[str, Run] = {"default": lambda i: (linear(x[i], matrices[i]),)}
    if num_tokens <= MOST_FEW:
        variants |= {name: run(tuning) for name, tuning in LINEAR_TUNINGS.items()}
    if num_tokens <= MOST_ROWS and n <= MOST_FEATURES:
        variants |= {name: rows_in_registers(tuning) for name, tuning in THIN_TUNINGS.items()}
    num_bytes = matrices[0].num_bytes + num_tokens * (n + k) * source.item_bytes
    wide = [matrix.dequantise(source.dtype) for matrix in matrices]  # what the library does without packing
    size = f"{name} T={num_tokens}"
    reference: Run = lambda i: library(i, wide[i])  # noqa: E731
    return Case("linear-fp8", size, num_bytes, 2 * num_tokens * n * k, len(matrices), variants, reference, exact)
