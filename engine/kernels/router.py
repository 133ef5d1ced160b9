"""Group-limited top-k routing with a selection bias (DeepSeek-V3, 2024; Ling-2.0 uses the same form)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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


def route(logits: Tensor, bias: Tensor, rule: RoutingRule) -> tuple[Tensor, Tensor]:
    """Checked form of `route_reference`.

    Raises:
        ValueError: logits are not float32 [T, E] with E a multiple of the group count.
    """
    if logits.dtype != torch.float32 or logits.ndim != 2 or logits.shape[1] % rule.n_group:
        raise ValueError(
            f"route: want float32 [T, E], E a multiple of {rule.n_group}; got {logits.dtype} {logits.shape}"
        )
    return route_reference(logits, bias, rule)
