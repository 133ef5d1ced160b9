"""Routed experts against one expert at a time, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.fused_moe import SharedExpert, fused_moe


def one_by_one(x: Tensor, w13: Tensor, w2: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float32)
    for token in range(x.shape[0]):
        for expert, weight in zip(ids[token].tolist(), weights[token].tolist(), strict=True):
            half = w13.shape[1] // 2
            gate, up = w13[expert, :half] @ x[token], w13[expert, half:] @ x[token]
            out[token] += weight * (w2[expert] @ (torch.sigmoid(gate) * gate * up)).float()
    return out


@pytest.mark.parametrize("num_tokens", [1, 2, 33])
def test_against_one_by_one(num_tokens: int) -> None:
    torch.manual_seed(num_tokens)
    x, w13, w2 = torch.randn(num_tokens, 12), torch.randn(6, 2 * 5, 12), torch.randn(6, 12, 5)
    ids = torch.stack([torch.randperm(6)[:3] for _ in range(num_tokens)])
    weights = torch.rand(num_tokens, 3)
    torch.testing.assert_close(fused_moe(x, w13, w2, ids, weights), one_by_one(x, w13, w2, ids, weights))


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    x, w13, w2 = torch.randn(8, 12), torch.randn(6, 10, 12), torch.randn(6, 12, 5)
    ids = torch.stack([torch.randperm(6)[:3] for _ in range(8)])
    weights = torch.rand(8, 3)
    together = fused_moe(x, w13, w2, ids, weights)
    alone = torch.cat([fused_moe(x[i : i + 1], w13, w2, ids[i : i + 1], weights[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, alone)  # float32 products of another shape round differently


def test_mismatched_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="fused_moe"):
        fused_moe(torch.zeros(1, 4), torch.zeros(2, 6, 5), torch.zeros(2, 4, 3), torch.zeros(1, 1), torch.zeros(1, 1))


def test_the_shared_expert_is_added_after_rounding() -> None:
    """In bfloat16 the routed sum is rounded once, then the shared expert's output is added in bfloat16."""
    torch.manual_seed(0)
    x, w13, w2 = torch.randn(4, 12).bfloat16(), torch.randn(6, 10, 12).bfloat16(), torch.randn(6, 12, 5).bfloat16()
    ids, weights = torch.stack([torch.randperm(6)[:3] for _ in range(4)]), torch.rand(4, 3)
    shared = SharedExpert(torch.randn(14, 12).bfloat16(), torch.randn(12, 7).bfloat16())  # another width is allowed
    gate, up = (x @ shared.w13.T).chunk(2, dim=-1)
    extra = (torch.nn.functional.silu(gate) * up) @ shared.w2.T
    assert torch.equal(fused_moe(x, w13, w2, ids, weights, shared), fused_moe(x, w13, w2, ids, weights) + extra)
