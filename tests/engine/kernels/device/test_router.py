"""The gate's projection and the choice of experts."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.gate import GateTuning, gate_logits, gate_logits_reference, gate_parts
from engine.kernels.gate_choice import GateChoiceTuning, gate_choice, gate_choice_few, gate_choice_reference
from engine.kernels.paths import VARIANTS, taking
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
@pytest.mark.parametrize("block_experts", [1, 4])
def test_gate_and_choice_in_one_launch(
    num_experts: int, rule: RoutingRule, block_experts: int, dtype: torch.dtype
) -> None:
    """Several launches on the same counter: every one chooses, and equal inputs give equal bits."""
    weight, bias = torch.randn(num_experts, 96, dtype=dtype) / 10, torch.randn(num_experts, dtype=dtype) / 10
    tuning = GateChoiceTuning(block_experts, num_warps=2)
    inputs = [torch.randn(count, 96, dtype=dtype) for count in (1, 3)]
    found = [gate_choice_few(x, weight, bias, rule, tuning) for x in (*inputs, *inputs)]
    for x, choice in zip((*inputs, *inputs), found, strict=True):
        assert_same_choice(choice, gate_choice_reference(x, weight, bias, rule))
    for first, again in zip(found[:2], found[2:], strict=True):
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


def test_one_token_takes_the_path_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    num_experts, rule = RULES[1]
    x, weight, bias = torch.randn(1, 32), torch.randn(num_experts, 32), torch.randn(num_experts)
    launched: list[int] = []

    def one_launch(x: torch.Tensor, *arguments: object) -> object:
        launched.append(len(x))
        return gate_choice_few(x, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.kernels.gate_choice.gate_choice_few", one_launch)
    apart = gate_choice(x, weight, bias, rule)
    assert not launched
    with taking(VARIANTS["gate"]):
        together = gate_choice(x, weight, bias, rule)
        gate_choice(x.expand(9, -1), weight, bias, rule)
    assert launched == [1]
    assert torch.equal(apart[0].sort().values, together[0].sort().values)


def test_a_gate_that_does_not_fit_is_refused() -> None:
    num_experts, rule = RULES[1]
    with pytest.raises(ValueError, match="gate_choice"):
        gate_choice_few(
            torch.randn(1, 32), torch.randn(num_experts, 31), torch.randn(num_experts), rule, GateChoiceTuning()
        )
