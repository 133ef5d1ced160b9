"""Partial rotation and the released axis layout, by hand."""

from __future__ import annotations

import math

import torch

from engine.kernels.rms_norm import rms_norm
from engine.kernels.rope import apply_rotary
from engine.layers.rope import VideoRope, frequency_axes, inverse_frequencies
from engine.model_config import parse_model_config
from tests.engine.released import released_config


def test_axes_alternate_and_time_owns_the_lowest_frequencies() -> None:
    axes = frequency_axes((8, 12, 12)).tolist()
    assert axes[:24] == [1, 2] * 12
    assert axes[24:] == [0] * 8


def test_frequencies() -> None:
    found = inverse_frequencies(64, 2_400_000.0)
    assert found.dtype == torch.float32
    assert found[0] == 1.0
    assert math.isclose(float(found[31]), 2_400_000.0 ** (-62 / 64), rel_tol=1e-6)


def test_pairs_are_half_a_rotation_apart_and_the_rest_passes() -> None:
    x = torch.arange(1.0, 7.0).view(1, 1, 6)  # pairs (1, 3) and (2, 4); 5 and 6 pass
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert apply_rotary(x, cos, sin).flatten().tolist() == [-3.0, 2.0, 1.0, 4.0, 5.0, 6.0]


def test_negative_positions_rotate_backwards() -> None:
    rope = VideoRope(parse_model_config(released_config()).llm)
    rope.reset(torch.device("cpu"))
    there = rope(torch.tensor([[5], [-3], [-3]]), torch.float32)
    back = rope(torch.tensor([[-5], [3], [3]]), torch.float32)
    torch.testing.assert_close(there.cos, back.cos)
    torch.testing.assert_close(there.sin, -back.sin)
    assert float(there.sin[0, 0]) == float(torch.tensor(-3.0).sin())  # frequency 0 reads H and is 1


def test_norm_rounds_before_the_weight() -> None:
    """In bfloat16 the normalised value is rounded first: multiplying in float32 gives another last bit."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, 32).bfloat16(), (1 + torch.randn(32)).bfloat16()
    normed = (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)).bfloat16()
    assert torch.equal(rms_norm(x, weight, 1e-6), normed * weight)
    fused = (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6) * weight.float()).bfloat16()
    assert not torch.equal(rms_norm(x, weight, 1e-6), fused)
