"""Cases of the operations on single tokens: norms, rotation and cache write, gate, choice of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from engine.kernels.bench.case import Case, Outputs, Run, Source
from engine.kernels.gate import GateTuning, choose_gate_tuning, gate_logits_reference, gate_parts
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope, qk_norm_rope_reference
from engine.kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from engine.kernels.router import route, route_reference

EPS = 1e-6


def token_cases(source: Source) -> Iterator[Case]:
    """Every operation at every number of tokens."""
    for num_tokens in (*source.sizes.decodes, *source.sizes.prefills):
        yield norm_case(source, num_tokens)
        yield residual_case(source, num_tokens)
        yield rotation_case(source, num_tokens)
        yield gate_case(source, num_tokens)
        yield router_case(source, num_tokens)


def norm_case(source: Source, num_tokens: int) -> Case:
    """The norm alone."""
    s = source.sizes
    x, weight = source.normal(s.num_sets, num_tokens, s.dim), source.normal(s.dim)

    def run(i: int) -> Outputs:
        return (rms_norm(x[i], weight, EPS),)

    def reference(i: int) -> Outputs:
        return (rms_norm_reference(x[i], weight, EPS),)

    def exact(i: int) -> Outputs:
        return (rms_norm_reference(x[i].float(), weight.float(), EPS),)

    num_bytes = 2 * num_tokens * s.dim * source.item_bytes
    return Case("rms_norm", f"T={num_tokens}", num_bytes, 0, s.num_sets, {"default": run}, reference, exact)


def residual_case(source: Source, num_tokens: int) -> Case:
    """The residual sum and its norm."""
    s = source.sizes
    x, delta = source.normal(2, s.num_sets, num_tokens, s.dim).unbind()
    weight = source.normal(s.dim)

    def run(i: int) -> Outputs:
        return add_rms_norm(x[i], delta[i], weight, EPS)

    def reference(i: int) -> Outputs:
        return add_rms_norm_reference(x[i], delta[i], weight, EPS)

    def exact(i: int) -> Outputs:
        return add_rms_norm_reference(x[i].float(), delta[i].float(), weight.float(), EPS)

    num_bytes = 4 * num_tokens * s.dim * source.item_bytes
    return Case("add_rms_norm", f"T={num_tokens}", num_bytes, 0, s.num_sets, {"default": run}, reference, exact)


def rotation_case(source: Source, num_tokens: int) -> Case:
    """Head norms, rotation and cache write; the caches are shared by the input sets of a run."""
    s = source.sizes
    heads = (s.num_heads, s.num_kv_heads, s.num_kv_heads)
    packed = source.normal(s.num_sets, num_tokens, sum(heads), s.head_dim)
    phase = 100 * torch.randn(num_tokens, s.half, device=source.device)
    q_weight, k_weight = source.normal(2, s.head_dim).unbind()
    blocks = -(-num_tokens // s.block_size)
    slots = torch.randperm(blocks * s.block_size, device=source.device)[:num_tokens]

    def prepared(function: Callable[..., Tensor], dtype: torch.dtype) -> Run:
        shape = (blocks, s.block_size, s.num_kv_heads, s.head_dim)
        caches = (
            torch.zeros(shape, dtype=dtype, device=source.device),
            torch.zeros(shape, dtype=dtype, device=source.device),
        )
        values = packed.to(dtype)
        norms = HeadNorms(q_weight.to(dtype), k_weight.to(dtype), EPS)
        tables = (phase.cos().to(source.dtype).to(dtype), phase.sin().to(source.dtype).to(dtype))

        def run(i: int) -> Outputs:
            return function(*values[i].split(heads, dim=1), norms, tables, caches, slots), *caches

        return run

    return Case(
        "qk_norm_rope",
        f"T={num_tokens}",
        num_tokens * (2 * sum(heads) * s.head_dim + 2 * s.half) * source.item_bytes,
        0,
        s.num_sets,
        {"default": prepared(qk_norm_rope, source.dtype)},
        prepared(qk_norm_rope_reference, source.dtype),
        prepared(qk_norm_rope_reference, torch.float32),
    )


def gate_case(source: Source, num_tokens: int) -> Case:
    """The router's projection, a matrix of its own for each input set."""
    s = source.sizes
    x = source.normal(s.num_sets, num_tokens, s.dim)
    weight = source.normal(s.num_sets, s.num_experts, s.dim, scale=s.dim**-0.5)
    default = choose_gate_tuning(num_tokens, source.item_bytes)
    tunings = {"default": default, "twice the parts": replace(default, splits=2 * default.splits)}
    tunings["wide"] = GateTuning(32, max(16, min(64, default.block_tokens)), default.block_width, splits=8)

    def run(tuning: GateTuning) -> Run:
        return lambda i: (gate_parts(x[i], weight[i], tuning),)

    def reference(i: int) -> Outputs:
        return (gate_logits_reference(x[i], weight[i])[None],)

    return Case(
        "gate",
        f"T={num_tokens}",
        (s.num_experts + num_tokens) * s.dim * source.item_bytes + 4 * num_tokens * s.num_experts,
        2 * num_tokens * s.dim * s.num_experts,
        s.num_sets,
        {name: run(tuning) for name, tuning in tunings.items()},
        reference,
        reference,
        bound=1e-4,
        view=lambda outputs: (outputs[0].sum(dim=0),),
    )


def router_case(source: Source, num_tokens: int) -> Case:
    """The choice from logits in as many parts as the gate gives."""
    s = source.sizes
    num_parts = choose_gate_tuning(num_tokens, source.item_bytes).splits
    parts = torch.randn(s.num_sets, num_parts, num_tokens, s.num_experts, device=source.device)
    bias = 0.1 * torch.randn(s.num_experts, device=source.device)

    def run(i: int) -> Outputs:
        return route(parts[i], bias, s.rule)

    def reference(i: int) -> Outputs:
        return route_reference(parts[i].sum(dim=0), bias, s.rule)

    def dense(outputs: Outputs) -> Outputs:
        """Weights of all experts: the order of the chosen ones means nothing."""
        ids, weights = outputs
        return (torch.zeros(num_tokens, s.num_experts, device=source.device).scatter_(1, ids, weights),)

    num_bytes = num_tokens * (4 * num_parts * s.num_experts + 12 * s.rule.top_k)
    size, variants = f"T={num_tokens}", {"default": run}
    return Case("router", size, num_bytes, 0, s.num_sets, variants, reference, reference, view=dense)
