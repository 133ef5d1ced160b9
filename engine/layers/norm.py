"""RMS norm as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.kernels.rms_norm import add_rms_norm, rms_norm


class RMSNorm(nn.Module):
    """`weight * normalised(x)` over the last dimension; follows `BailingMoeV2RMSNorm`."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta and its norm, [..., D] each."""
        return add_rms_norm(x, delta, self.weight, self.eps)
