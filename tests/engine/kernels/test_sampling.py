"""The definition of a draw on tensors against the sampler's, which is written on Python numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.core.request import SamplingParams
from engine.kernels.sampling import DrawParams, draw_reference, uniform_reference
from engine.runtime.sampler import SamplerRow, sample, uniform

SEEDS = [0, 1, 7, -1, 2**31, 2**63 - 1, -(2**63), 123456789012345678]


def test_uniform_numbers_are_the_samplers() -> None:
    pairs = [(seed, index) for seed in SEEDS for index in (0, 1, 2, 1000, 2**20)]
    got = uniform_reference(*(torch.tensor(column) for column in zip(*pairs, strict=True)))
    want = torch.tensor([uniform(seed, index) for seed, index in pairs], dtype=torch.float32)
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.6, "top_k": 20},
        {"top_p": 0.9, "min_p": 0.01},
        {"top_k": -1, "top_p": 0.3, "temperature": 1.5},
    ],
    ids=str,
)
def test_draws_are_the_samplers(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(40, 60)
    rows = [SamplerRow(SamplingParams(max_tokens=99, seed=i, **options), num_generated=3 * i) for i in range(40)]
    want = sample(logits.clone(), rows).tokens
    chosen = [row.params for row in rows]
    params = DrawParams(
        torch.tensor([p.temperature for p in chosen]),
        torch.tensor([p.top_k for p in chosen], dtype=torch.int32),
        torch.tensor([p.top_p for p in chosen]),
        torch.tensor([p.min_p for p in chosen]),
        torch.tensor([p.seed for p in chosen]),
        torch.tensor([row.num_generated for row in rows]),
    )
    assert torch.equal(draw_reference(logits, params), want)
