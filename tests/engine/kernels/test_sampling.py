"""The numbers that draws are made of, against plain Python integers, and the noise against its distribution."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.gumbel import gumbel_draw
from engine.kernels.sampling import uniform_reference

SEEDS = [0, 1, 7, -1, 2**31, 2**63 - 1, -(2**63), 123456789012345678]
MASK = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """Two rounds of the splitmix64 finaliser (Steele et al., 2014) on Python integers."""
    return (mix(mix(seed & MASK) ^ (index * 0x9E3779B97F4A7C15 & MASK)) >> 11) * 2.0**-53


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_uniform_numbers() -> None:
    pairs = [(seed, index) for seed in SEEDS for index in (0, 1, 2, 1000, 2**20)]
    got = uniform_reference(*(torch.tensor(column) for column in zip(*pairs, strict=True)))
    want = torch.tensor([uniform(seed, index) for seed, index in pairs], dtype=torch.float32)
    assert torch.equal(got, want)
    spread = uniform_reference(torch.arange(100).repeat_interleave(100), torch.arange(100).repeat(100))
    assert len(spread.unique()) > 9_990
    assert abs(float(spread.mean()) - 0.5) < 0.012  # 4 standard errors


@pytest.mark.slow
def test_noise_draws_a_rare_token_as_often_as_it_is_probable() -> None:
    """One token of 4,096 with probability 2 ** -6, the others sharing the rest: 4 standard deviations of 6,000."""
    logits = torch.zeros(1, 4096)
    logits[0, 77] = torch.tensor(4095 / 63).log()
    index = torch.arange(6_000)
    tokens = torch.cat(
        [gumbel_draw(logits.expand(len(i), -1), torch.ones(len(i)), i * 0 + 5, i) for i in index.split(500)]
    )
    assert abs(float((tokens == 77).double().mean()) - 2**-6) < 4 * (2**-6 / 6_000) ** 0.5
    others = tokens[tokens != 77]
    assert len(others.unique()) > 2950  # of 4,095, each seen 1.44 times on average: 3,125 are to be expected
