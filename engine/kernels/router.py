"""Group-limited top-k routing with a selection bias (DeepSeek-V3, 2024; Ling-2.0 uses the same form)."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """Sizes of the choice: `top_k` experts out of the best `topk_group` of `n_group` groups."""

    top_k: int
    n_group: int
    topk_group: int
    scaling: float


def route_reference(logits: Tensor, bias: Tensor, rule: RoutingRule) -> tuple[Tensor, Tensor]:
    """Choose experts per token: float32 logits [T, E], bias [E] or [T, E] -> ids int64 [T, k], weights float32 [T, k].

    The bias decides selection only; weights are the unbiased sigmoid scores, normalised over the chosen
    experts and scaled. A group's score is the sum of its two best biased scores. Order inside a row has no meaning.
    """
    scores = logits.sigmoid()
    biased = scores + bias
    num_tokens, num_experts = scores.shape
    grouped = biased.view(num_tokens, rule.n_group, num_experts // rule.n_group)
    group_scores = grouped.topk(2, dim=-1).values.sum(dim=-1)
    kept = group_scores.topk(rule.topk_group, dim=-1, sorted=False).indices
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
    # -inf, not 0: biased scores can be negative.
    masked = grouped.masked_fill(dropped.unsqueeze(-1), float("-inf")).view(num_tokens, num_experts)
    ids = masked.topk(rule.top_k, dim=-1, sorted=False).indices
    weights = scores.gather(1, ids)
    if rule.top_k > 1:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return ids, weights * rule.scaling


@jit
def _ordered(x):
    """float32 as int32 of the same order: integers compare across a warp in one instruction."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@jit
def _best_groups(biased, member, topk_group: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """Which groups [GROUPS] are kept: a group counts by the sum of its two best scores [GROUPS, SIZE]."""
    first = tl.max(biased, 1, keep_dims=True)
    first_at = tl.min(tl.where(biased == first, member, SIZE), 1, keep_dims=True)
    second = tl.max(tl.where(member == first_at, float("-inf"), biased), 1, keep_dims=True)
    score = tl.reshape(first + second, [GROUPS])
    index = tl.arange(0, GROUPS)
    ahead = (score[None, :] > score[:, None]) | ((score[None, :] == score[:, None]) & (index[None, :] < index[:, None]))
    return tl.sum(ahead.to(tl.int32), 1) < topk_group


@jit
def _experts_by_group(num_experts: tl.constexpr, n_group: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    """Experts laid out as [GROUPS, SIZE]: number, place in the group [1, SIZE], whether there is one."""
    size: tl.constexpr = num_experts // n_group
    group, member = tl.arange(0, GROUPS)[:, None], tl.arange(0, SIZE)[None, :]
    return group * size + member, member, (group < n_group) & (member < size)


@jit
def _choose(
    logits, bias_ptr, ids_ptr, weights_ptr, num_experts: tl.constexpr, top_k: tl.constexpr,
    n_group: tl.constexpr, topk_group: tl.constexpr, scaling: tl.constexpr, GROUPS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The choice of one token from its logits, laid out by `_experts_by_group`: k ids and weights."""
    expert, member, exists = _experts_by_group(num_experts, n_group, GROUPS, SIZE)
    scores = tl.sigmoid(logits)
    bias = tl.load(bias_ptr + expert, mask=exists, other=0.0).to(tl.float32)
    biased = tl.where(exists, scores + bias, float("-inf"))
    kept = _best_groups(biased, member, topk_group, GROUPS, SIZE)
    # The smallest value, not 0: biased scores can be negative.
    key = tl.where(exists & tl.expand_dims(kept, 1), _ordered(biased), -(1 << 31))

    key, scores = tl.reshape(key, [GROUPS * SIZE]), tl.reshape(scores, [GROUPS * SIZE])
    expert, exists = tl.reshape(expert, [GROUPS * SIZE]), tl.reshape(exists, [GROUPS * SIZE])
    rank = tl.full([GROUPS * SIZE], -1, tl.int32)
    for k in tl.static_range(top_k):
        candidate = (key == tl.max(key, 0)) & exists & (rank < 0)
        chosen = candidate & (expert == tl.min(tl.where(candidate, expert, num_experts), 0))
        rank = tl.where(chosen, k, rank)
        key = tl.where(chosen, -(1 << 31), key)
    weights = scores
    if top_k > 1:
        weights = scores / (tl.sum(tl.where(rank >= 0, scores, 0.0), 0) + 1e-20)
    tl.store(ids_ptr + rank, expert.to(tl.int64), mask=rank >= 0)
    tl.store(weights_ptr + rank, weights * scaling, mask=rank >= 0)


@jit
def _route_kernel(
    logits_ptr,
    bias_ptr,
    ids_ptr,
    weights_ptr,
    num_tokens,
    bias_stride,
    num_experts: tl.constexpr,
    num_parts: tl.constexpr,
    top_k: tl.constexpr,
    n_group: tl.constexpr,
    topk_group: tl.constexpr,
    scaling: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token a program and one warp: comparisons within a warp need no barrier."""
    wait_then_release(PDL)
    token = tl.program_id(0).to(tl.int64)
    expert, _, exists = _experts_by_group(num_experts, n_group, GROUPS, SIZE)
    logits = tl.zeros([GROUPS, SIZE], tl.float32)
    for part in tl.static_range(num_parts):
        logits += tl.load(logits_ptr + (part * num_tokens + token) * num_experts + expert, mask=exists, other=0.0)
    _choose(
        logits, bias_ptr + token * bias_stride, ids_ptr + token * top_k, weights_ptr + token * top_k,
        num_experts, top_k, n_group, topk_group, scaling, GROUPS, SIZE,
    )  # fmt: skip


def route(logits: Tensor, bias: Tensor, rule: RoutingRule) -> tuple[Tensor, Tensor]:
    """Checked form of `route_reference`; `logits` may also be parts [S, T, E] that add up to them.

    Raises:
        ValueError: logits are not float32 with E a multiple of the group count, or the bias has other experts.
    """
    if logits.dtype != torch.float32 or logits.ndim not in (2, 3) or logits.shape[-1] % rule.n_group:
        raise ValueError(
            f"route: want float32 [T, E], E a multiple of {rule.n_group}; got {logits.dtype} {logits.shape}"
        )
    parts = logits if logits.ndim == 3 else logits[None]
    if bias.shape not in (parts.shape[1:], parts.shape[2:]):
        raise ValueError(f"route: bias {tuple(bias.shape)} does not fit logits {tuple(logits.shape)}")
    if not use_kernel(logits):
        return route_reference(parts.sum(dim=0), bias.float(), rule)
    return _launch(parts.contiguous(), bias.contiguous(), rule)


def _launch(parts: Tensor, bias: Tensor, rule: RoutingRule) -> tuple[Tensor, Tensor]:
    num_parts, num_tokens, num_experts = parts.shape
    ids = torch.empty(num_tokens, rule.top_k, dtype=torch.int64, device=parts.device)
    weights = torch.empty(num_tokens, rule.top_k, dtype=torch.float32, device=parts.device)
    if num_tokens:
        _route_kernel[(num_tokens,)](
            parts,
            bias,
            ids,
            weights,
            num_tokens,
            num_experts if bias.ndim == 2 else 0,
            num_experts,
            num_parts,
            rule.top_k,
            rule.n_group,
            rule.topk_group,
            rule.scaling,
            GROUPS=next_power_of_2(rule.n_group),
            SIZE=next_power_of_2(num_experts // rule.n_group),
            num_warps=1,
            **launch_options(parts.device),
        )
    return ids, weights
