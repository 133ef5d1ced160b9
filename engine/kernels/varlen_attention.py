"""Bidirectional attention within each of several packed sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention_reference(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attend within consecutive sequences of `lengths` tokens: [T, H, C] each -> [T, H, C].

    Scale C**-0.5, softmax in float32. Sequences of equal length share one batched product, so a video costs
    as many calls as it has frame sizes. A sequence's result depends only on how many share its length.
    """
    if len(set(lengths)) == 1:
        return _attend(q, k, v, lengths[0])
    out = torch.empty_like(q)
    starts = torch.tensor([0, *accumulate(lengths)][:-1], device=q.device)
    sizes = torch.tensor(lengths, device=q.device)
    for length in sorted(set(lengths)):
        tokens = torch.arange(length, device=q.device)
        rows = (starts[sizes == length, None] + tokens).flatten()
        out[rows] = _attend(q[rows], k[rows], v[rows], length)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    """Attention within rows of `length` tokens: [B * length, H, C] -> [B * length, H, C]."""
    q, k, v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v))  # [B, H, length, C]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Checked form of `varlen_attention_reference`; `lengths` are Python numbers, so nothing waits for the device.

    Raises:
        ValueError: the three differ in shape, or `lengths` are not positive and do not add up to T.
    """
    if not q.shape == k.shape == v.shape:
        raise ValueError(f"varlen_attention: want equal shapes, got {q.shape}, {k.shape}, {v.shape}")
    if not lengths or min(lengths) < 1 or sum(lengths) != q.shape[0]:
        raise ValueError(f"varlen_attention: lengths {list(lengths)} do not cover {q.shape[0]} tokens")
    return varlen_attention_reference(q, k, v, lengths)
