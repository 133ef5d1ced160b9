"""Group-limited routing by hand-worked examples."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.router import RoutingRule, route

RULE = RoutingRule(top_k=2, n_group=2, topk_group=1, scaling=2.5)


def logit(p: float) -> float:
    return float(torch.logit(torch.tensor(p, dtype=torch.float64)))


def run(scores: list[float], bias: list[float], rule: RoutingRule = RULE) -> tuple[list[int], list[float]]:
    ids, weights = route(torch.tensor([[logit(s) for s in scores]]), torch.tensor(bias), rule)
    order = ids[0].argsort()
    return ids[0][order].tolist(), weights[0][order].tolist()


def test_group_is_chosen_by_its_two_best() -> None:
    """The best single expert (0.9) is in group 0, but 0.6 + 0.7 beats 0.9 + 0.1."""
    ids, weights = run([0.9, 0.1, 0.6, 0.7], [0.0] * 4)
    assert ids == [2, 3]
    assert weights == pytest.approx([2.5 * 0.6 / 1.3, 2.5 * 0.7 / 1.3])


def test_bias_selects_but_does_not_weigh() -> None:
    ids, weights = run([0.5, 0.4, 0.6, 0.7], [1.0, 1.0, 0.0, 0.0])
    assert ids == [0, 1]
    assert weights == pytest.approx([2.5 * 0.5 / 0.9, 2.5 * 0.4 / 0.9])


def test_dropped_groups_stay_out_when_biased_scores_are_negative() -> None:
    """All of the kept group's biased scores are below zero: a mask of 0 would let the other group in."""
    ids, _ = run([0.5, 0.5, 0.5, 0.5], [-1.0, -1.1, -2.0, -2.0])
    assert ids == [0, 1]


def test_bias_per_token() -> None:
    logits = torch.zeros(2, 4)
    bias = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    ids, _ = route(logits, bias, RULE)
    assert [sorted(row) for row in ids.tolist()] == [[0, 1], [2, 3]]


def test_a_single_expert_is_not_normalised() -> None:
    ids, weights = run([0.2, 0.8, 0.3, 0.3], [0.0] * 4, RoutingRule(1, 2, 1, 2.0))
    assert ids == [1]
    assert weights == pytest.approx([1.6])


def test_half_precision_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="want float32"):
        route(torch.zeros(1, 4, dtype=torch.bfloat16), torch.zeros(4), RULE)
