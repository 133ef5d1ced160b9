"""Gate and choice of experts of a few tokens in one launch: the last program of the gate chooses.

Each program multiplies whole rows of the gate, so that no part has to be added, and the choice reads one logit an
expert. Sums run in one order whoever is last: every rank that multiplies the same numbers chooses the same experts.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.arrival import counters, is_last
from engine.kernels.gate import gate_logits_reference, gate_parts
from engine.kernels.paths import current
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.router import RoutingRule, choose, experts_by_group, route, route_reference
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel

MOST_TOKENS = 1  # the last program chooses for one token after the other: 2 us each, beside one launch that is saved
_arrived = counters(1)


@dataclass(frozen=True, slots=True)
class GateChoiceTuning:
    """Experts of a program, and warps that share their rows."""

    block_experts: int = 2
    num_warps: int = 4


def gate_choice_reference(x: Tensor, weight: Tensor, bias: Tensor, rule: RoutingRule) -> tuple[Tensor, Tensor]:
    """x [T, D] and gate [E, D] in one dtype, bias [E] -> ids int64 [T, k] and weights float32 [T, k]."""
    return route_reference(gate_logits_reference(x, weight), bias.float(), rule)


@jit
def _gate_choice_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    logits_ptr,
    arrived_ptr,
    ids_ptr,
    weights_ptr,
    num_tokens,
    num_experts: tl.constexpr,
    dim: tl.constexpr,
    top_k: tl.constexpr,
    n_group: tl.constexpr,
    topk_group: tl.constexpr,
    scaling: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Logits [T, E] of BLOCK_EXPERTS experts; products and sums in float32, as the reference makes them."""
    first = tl.program_id(0) * BLOCK_EXPERTS
    expert, col = first + tl.arange(0, BLOCK_EXPERTS), tl.arange(0, WIDTH)
    mask = (expert < num_experts)[:, None] & (col < dim)[None, :]
    # Weights wait for nobody: they are under way while the kernel before this one ends.
    weight = tl.load(weight_ptr + expert.to(tl.int64)[:, None] * dim + col[None, :], mask=mask, other=0.0)
    wait_then_release(PDL)
    for token in range(num_tokens):
        x = tl.load(x_ptr + token * dim + col, mask=col < dim, other=0.0)
        logit = tl.sum(weight.to(tl.float32) * x.to(tl.float32)[None, :], 1)
        tl.store(logits_ptr + token * num_experts + expert, logit, mask=expert < num_experts)
    if is_last(arrived_ptr, tl.num_programs(0)):
        each, _, exists = experts_by_group(num_experts, n_group, GROUPS, SIZE)
        for token in range(num_tokens):
            at = logits_ptr + token * num_experts + each
            logits = tl.load(at, mask=exists, other=0.0, cache_modifier=".cg")
            choose(
                logits, bias_ptr, ids_ptr + token * top_k, weights_ptr + token * top_k,
                num_experts, top_k, n_group, topk_group, scaling, GROUPS, SIZE,
            )  # fmt: skip
        tl.store(arrived_ptr, 0)  # for the next launch


def gate_choice(
    x: Tensor, weight: Tensor, bias: Tensor, rule: RoutingRule, tuning: GateChoiceTuning | None = None
) -> tuple[Tensor, Tensor]:
    """Checked form of `gate_choice_reference`: one launch for a few tokens by that path, else the gate and the choice.

    Raises:
        ValueError: widths, dtypes or expert counts do not agree.
    """
    if not (current().choose_in_gate and use_kernel(x) and 0 < x.shape[0] <= MOST_TOKENS):
        return route(gate_parts(x, weight), bias, rule)
    return gate_choice_few(x, weight, bias, rule, tuning or GateChoiceTuning())


def gate_choice_few(
    x: Tensor, weight: Tensor, bias: Tensor, rule: RoutingRule, tuning: GateChoiceTuning
) -> tuple[Tensor, Tensor]:
    """The one launch, whatever the path.

    Raises:
        ValueError: widths, dtypes or expert counts do not agree.
    """
    (num_tokens, dim), num_experts = x.shape, weight.shape[0]
    fits = weight.shape == (num_experts, dim) and x.dtype == weight.dtype and bias.shape == (num_experts,)
    if not fits or num_experts % rule.n_group:
        raise ValueError(
            f"gate_choice: {x.dtype} {tuple(x.shape)} with gate {weight.dtype} {tuple(weight.shape)}, bias "
            f"{tuple(bias.shape)}, {rule.n_group} groups"
        )
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    logits = torch.empty(num_tokens, num_experts, dtype=torch.float32, device=x.device)
    ids = torch.empty(num_tokens, rule.top_k, dtype=torch.int64, device=x.device)
    weights = torch.empty(num_tokens, rule.top_k, dtype=torch.float32, device=x.device)
    _gate_choice_kernel[(cdiv(num_experts, tuning.block_experts),)](
        x,
        weight,
        bias,
        logits,
        _arrived(x.device),
        ids,
        weights,
        num_tokens,
        num_experts,
        dim,
        rule.top_k,
        rule.n_group,
        rule.topk_group,
        rule.scaling,
        GROUPS=next_power_of_2(rule.n_group),
        SIZE=next_power_of_2(num_experts // rule.n_group),
        BLOCK_EXPERTS=tuning.block_experts,
        WIDTH=next_power_of_2(dim),
        num_warps=tuning.num_warps,
        **launch_options(x.device),
    )
    return ids, weights
