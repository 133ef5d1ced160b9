from __future__ import annotations

import torch

from engine.stages.noise import SeededNoise, generator_seed
from tests.engine.speech import load_tiny

CFG = load_tiny().config.talker


def test_order_is_initial_noise_then_noise_of_the_steps() -> None:
    noise, generator = SeededNoise(CFG, seed=7), torch.Generator().manual_seed(generator_seed(7, 0))
    for _ in range(3):
        y0, sde = noise.draw()
        assert torch.equal(y0, torch.randn(4, 64, generator=generator))
        assert torch.equal(sde, torch.randn(10, 4, 64, generator=generator))


def test_requests_and_segments_have_noise_of_their_own() -> None:
    first = {(seed, k): SeededNoise(CFG, seed, k).draw()[0] for seed in (0, 1, 2**62, 2**63 - 1) for k in (0, 1, 2)}
    values = list(first.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    assert torch.equal(SeededNoise(CFG, 1, 2).draw()[0], first[1, 2])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    want = torch.randn(3)
    torch.manual_seed(0)
    SeededNoise(CFG, seed=5).draw()
    assert torch.equal(torch.randn(3), want)
