"""Cases of a decode step: products of a few rows, and one layer's launches by every way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.bench.attention import Batch
from engine.kernels.bench.case import Case, Outputs, Run, Source
from engine.kernels.decode_attention import decode_attention
from engine.kernels.fused_moe import SharedExpert, experts_unsummed, fused_moe
from engine.kernels.gate import gate_parts
from engine.kernels.heads_attention import heads_attention, takes_heads
from engine.kernels.linear import linear
from engine.kernels.paths import VARIANTS, Paths, current, taking
from engine.kernels.programmatic import supported
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope
from engine.kernels.rms_norm import add_rms_norm
from engine.kernels.router import route
from engine.kernels.thin import MOST_ROWS, ThinTuning, thin, thin_reference

EPS = 1e-6
THIN_TUNINGS = {
    "thin n1": ThinTuning(1, 4),
    "thin n2": ThinTuning(2, 4),
    "thin n4": ThinTuning(4, 4),
    "thin n4 warps 8": ThinTuning(4, 8),
    "thin n8 warps 8": ThinTuning(8, 8),
}


def step_cases(source: Source) -> Iterator[Case]:
    """What a step of a few tokens waits for."""
    s = source.sizes
    width = s.num_heads * s.head_dim
    for num_rows in (rows for rows in s.decodes if rows <= MOST_ROWS):
        yield thin_case(source, "query_key_value", num_rows, (s.num_heads + 2 * s.num_kv_heads) * s.head_dim, s.dim)
        yield thin_case(source, "output product", num_rows, s.dim, width)
    yield thin_case(source, "head", 1, s.vocab // 2, s.dim)
    for num_rows in s.decodes[:4]:
        yield layer_case(source, num_rows, s.contexts[0])


def thin_case(source: Source, name: str, num_rows: int, n: int, k: int) -> Case:
    """One product [T, k] x [n, k], by the library and by our kernel."""
    sets = source.sizes.num_sets
    x, weight = source.normal(sets, num_rows, k), source.normal(sets, n, k, scale=k**-0.5)

    def ours(tuning: ThinTuning | None) -> Run:
        return lambda i: (thin(x[i], weight[i], tuning=tuning),)

    def reference(i: int) -> Outputs:
        return (F.linear(x[i], weight[i]),)

    variants: dict[str, Run] = {"library": reference, "thin": ours(None)}
    variants |= {name: ours(tuning) for name, tuning in THIN_TUNINGS.items()}
    size = (n * k + num_rows * (n + k)) * source.item_bytes
    exact = lambda i: (thin_reference(x[i].float(), weight[i].float()),)  # noqa: E731
    return Case(name, f"T={num_rows}", size, 2 * num_rows * n * k, sets, variants, reference, exact)


def layer_case(source: Source, num_tokens: int, context: int) -> Case:
    """The launches of one MoE layer on one rank, sums over ranks left out, by every way that `paths.py` names.

    The experts' outputs are scaled down: where two are almost equally good, ways may choose differently, and rightly.
    """
    layers = [Layer(source, num_tokens, context) for _ in range(source.sizes.num_sets)]
    x = source.normal(len(layers), num_tokens, source.sizes.dim)

    early = supported(source.device)  # elsewhere those ways are the others once more

    def by(paths: Paths) -> Run:
        def run(i: int) -> Outputs:
            with taking(paths):
                return layers[i].step(x[i])

        return run

    return Case(
        "layer",
        f"T={num_tokens} context={context}",
        layers[0].num_bytes(num_tokens, context),
        0,
        len(layers),
        {name: by(paths) for name, paths in VARIANTS.items() if early or not paths.programmatic},
        by(Paths()),
        by(Paths()),
        bound=2e-2,
    )


class Layer:
    """One layer's weights, and a batch of sequences in a cache of its own."""

    def __init__(self, source: Source, num_tokens: int, context: int) -> None:
        s = source.sizes
        self.heads = (s.num_heads, s.num_kv_heads, s.num_kv_heads)
        self.width, self.rule, self.item_bytes = s.head_dim, s.rule, source.item_bytes
        matrix = partial(_matrix, source)
        self.qkv, self.dense = matrix(sum(self.heads) * self.width, s.dim), matrix(s.dim, s.num_heads * self.width)
        self.gate, self.bias = matrix(s.num_experts, s.dim), 0.1 * torch.randn(s.num_experts, device=source.device)
        self.w13 = matrix(s.num_experts, 2 * s.expert_width, s.dim)
        self.w2 = matrix(s.num_experts, s.dim, s.expert_width).mul_(0.02)
        self.shared = SharedExpert(matrix(2 * s.expert_width, s.dim), matrix(s.dim, s.expert_width))
        self.norm, ones = source.normal(s.dim).abs_(), source.normal(s.head_dim).abs_()
        self.head_norms = HeadNorms(ones, ones, EPS)
        self.batch = Batch.make(source, [1] * num_tokens, [context] * num_tokens)
        self.slots = self.batch.newest_slots()
        self.rotation = source.normal(2, num_tokens, s.half)

    def step(self, x: Tensor) -> Outputs:
        """Residual stream [T, D] -> the same, a layer on."""
        b, layout = self.batch, self.batch.layout
        q, k, v = linear(x, self.qkv).view(len(x), -1, self.width).split(self.heads, dim=1)
        caches, (cos, sin) = (b.k_cache, b.v_cache), self.rotation
        where = layout.block_tables, layout.seq_lens
        if takes_heads(q, layout):
            attended = heads_attention(q, k, v, self.head_norms, (cos, sin), caches, self.slots, *where)
        else:
            q = qk_norm_rope(q, k, v, self.head_norms, (cos, sin), caches, self.slots)
            attended = torch.empty_like(q)
            decode_attention(q, *caches, *where, attended)
        attended = linear(attended.flatten(start_dim=1), self.dense)
        x, normed = add_rms_norm(x, attended, self.norm, EPS)
        ids, weights = route(gate_parts(normed, self.gate), self.bias, self.rule)
        experts = (normed, self.w13, self.w2, ids, weights, self.shared)
        delta = experts_unsummed(*experts, torch.empty_like(x)) if current().late_sum else fused_moe(*experts)
        return add_rms_norm(x, delta, self.norm, EPS)

    def num_bytes(self, num_tokens: int, context: int) -> int:
        """Weights with uniform routing, and the cache."""
        num_experts, double, dim = self.w13.shape
        distinct = num_experts * (1 - (1 - self.rule.top_k / num_experts) ** num_tokens) + 1
        weights = self.qkv.numel() + self.dense.numel() + self.gate.numel() + distinct * 3 * double // 2 * dim
        return int((weights + 2 * num_tokens * context * self.heads[1] * self.width) * self.item_bytes)


def _matrix(source: Source, *shape: int) -> Tensor:
    """Weights whose products are of unit size."""
    return source.normal(*shape, scale=shape[-1] ** -0.5)
