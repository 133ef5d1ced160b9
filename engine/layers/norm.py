"""RMS norm as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.kernels.expert_sum import ExpertRows
from engine.kernels.rms_norm import add_rms_norm, rms_norm
from engine.parallel import TensorParallel


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


class ResidualNorm(nn.Module):
    """Adds what the block before contributes to the residual stream, summed over the ranks, and normalises that."""

    def __init__(self, dim: int, eps: float, tp: TensorParallel) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps
        self.tp = tp

    def forward(self, x: Tensor, share: Tensor | ExpertRows | None) -> tuple[Tensor, Tensor]:
        """Residual stream [T, D] and this rank's share of the sum [T, D] (None: nothing) -> the new one, its norm.

        The share may be the rows of experts, yet to be summed.
        """
        if share is None:
            return x, rms_norm(x, self.weight, self.eps)
        peers = self.tp.peers_for(len(x))
        if peers is not None:
            return peers.sum_add_norm(x, share, self.weight, self.eps)
        if self.tp.size > 1:
            share = share.summed(torch.empty_like(x)) if isinstance(share, ExpertRows) else share
            share = self.tp.all_reduce(share)
        return add_rms_norm(x, share, self.weight, self.eps)
