"""Root-mean-square normalisation (Zhang and Sennrich, 2019), as the released model rounds it."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension: [..., D] -> [..., D], accumulated in float32.

    The result is rounded to `x`'s dtype before the weight is applied, in that dtype: fused kernels that
    multiply in float32 differ from the released model in the last bit.
    """
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + eps)
    return weight * (x32 * scale).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Row-wise RMS norm over the last dimension.

    Raises:
        ValueError: the last dimension of `x` is not that of `weight`.
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"rms_norm: weight {tuple(weight.shape)} does not fit rows of {tuple(x.shape)}")
    return rms_norm_reference(x, weight, eps)
