"""Partial rotary embedding in half-split ("neox") form (Su et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rotary_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the leading 2 * F dimensions of each head: [T, H, C] with cos, sin [T, F] -> [T, H, C].

    Dimension i is paired with i + F; the remaining dimensions pass through. Runs in `x`'s dtype.
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # broadcast over heads
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Checked form of `apply_rotary_reference`.

    Raises:
        ValueError: the tables have other rows than `x`, or rotate more than its width.
    """
    if cos.shape != sin.shape or cos.shape[0] != x.shape[0] or 2 * cos.shape[1] > x.shape[2]:
        raise ValueError(f"apply_rotary: tables {tuple(cos.shape)}, {tuple(sin.shape)} do not fit {tuple(x.shape)}")
    return apply_rotary_reference(x, cos, sin)
