"""The gate's projection and the choice of experts."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.gate import GateTuning, gate_logits, gate_logits_reference, gate_parts
from engine.kernels.router import RoutingRule, route, route_reference
from tests.engine.kernels.device.helpers import assert_near, assert_same_choice

RELEASED = (256, RoutingRule(8, 8, 4, 2.5))
RULES = [RELEASED, (16, RoutingRule(4, 4, 2, 2.5)), (18, RoutingRule(3, 3, 2, 1.0)), (24, RoutingRule(1, 4, 1, 2.0))]


@pytest.mark.parametrize("num_tokens", [1, 17, 65])
@pytest.mark.parametrize(("num_experts", "width"), [(24, 96), (16, 300)])
def test_logits(num_tokens: int, num_experts: int, width: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(num_tokens, width, dtype=dtype), torch.randn(num_experts, width, dtype=dtype)
    assert_near(gate_logits(x, weight), gate_logits_reference(x, weight))


def test_parts_are_not_empty_of_meaning() -> None:
    """A wide input is really split, and only the sum of the parts is the result."""
    x, weight = torch.randn(3, 128), torch.randn(20, 128)
    parts = gate_parts(x, weight, GateTuning(16, 16, 16, splits=4))
    assert parts.shape == (4, 3, 20)
    assert_near(parts.sum(dim=0), gate_logits_reference(x, weight))
    assert all(float(part.abs().min()) > 0 for part in parts)


@pytest.mark.parametrize(("num_experts", "rule"), RULES)
@pytest.mark.parametrize("num_tokens", [1, 9])
def test_choice(num_tokens: int, num_experts: int, rule: RoutingRule) -> None:
    logits = torch.randn(num_tokens, num_experts)
    for bias in (
        torch.randn(num_experts),
        torch.randn(num_tokens, num_experts) - 3,
    ):  # the second makes scores negative
        assert_same_choice(route(logits, bias, rule), route_reference(logits, bias, rule))


def test_parts_are_added_before_the_choice() -> None:
    num_experts, rule = RULES[1]
    parts, bias = torch.randn(5, 7, num_experts), torch.randn(num_experts)
    ids, _ = route(parts, bias, rule)
    want, _ = route_reference(parts.sum(dim=0), bias, rule)
    assert torch.equal(ids.sort(dim=1).values, want.sort(dim=1).values)


def test_equal_scores_still_choose_different_experts() -> None:
    num_experts, rule = RELEASED
    ids, weights = route(torch.zeros(2, num_experts), torch.zeros(num_experts), rule)
    for row in ids.tolist():
        assert len(set(row)) == rule.top_k
        assert len({expert // 32 for expert in row}) <= rule.topk_group
    torch.testing.assert_close(weights, torch.full((2, 8), 2.5 / 8))


def test_two_equal_best_scores_of_a_group_both_count() -> None:
    """0.6 twice beats 0.9 and 0.2; counting the equal ones once would leave 0.6 and 0.1."""
    scores = torch.tensor([[0.6, 0.6, 0.1, 0.9, 0.2, 0.2]])
    ids, _ = route(scores.logit(), torch.zeros(6), RoutingRule(top_k=2, n_group=2, topk_group=1, scaling=1.0))
    assert sorted(ids[0].tolist()) == [0, 1]


def test_broken_logits_never_name_an_expert_that_is_not_there() -> None:
    num_experts, rule = RULES[2]
    logits = torch.randn(4, num_experts)
    logits[0], logits[1, ::2], logits[2] = float("nan"), float("nan"), float("-inf")
    ids, _ = route(logits, torch.zeros(num_experts), rule)
    assert int(ids.min()) >= 0
    assert int(ids.max()) < num_experts


@pytest.mark.parametrize(("num_experts", "rule"), RULES)
def test_gate_and_choice(num_experts: int, rule: RoutingRule, dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 96, dtype=dtype), torch.randn(num_experts, 96, dtype=dtype) / 10
    bias = torch.randn(num_experts, dtype=dtype) / 10
    want = route_reference(gate_logits_reference(x, weight), bias.float(), rule)
    assert_same_choice(route(gate_parts(x, weight), bias, rule), want)


def test_what_does_not_fit_is_refused() -> None:
    num_experts, rule = RULES[1]
    with pytest.raises(ValueError, match="gate"):
        gate_parts(torch.randn(1, 32), torch.randn(num_experts, 31))
    with pytest.raises(ValueError, match="bias"):
        route(torch.randn(1, num_experts), torch.randn(num_experts + 1), rule)
