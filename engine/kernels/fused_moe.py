"""Routed experts: every expert a gated MLP, its packed weights side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_moe_reference(x: Tensor, w13: Tensor, w2: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the chosen experts: x [T, D], w13 [E, 2F, D], w2 [E, D, F], ids and weights [T, k] -> [T, D].

    Each expert runs in `x`'s dtype; the weighting and the sum over k run in float32 and are rounded once.
    Tokens are grouped by expert, so that each distinct expert's weights are read once.
    """
    num_tokens, top_k = ids.shape
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=w13.shape[0]).tolist()
    rows = x[order // top_k]
    out = torch.empty(num_tokens * top_k, w2.shape[1], dtype=x.dtype, device=x.device)
    start = 0
    for expert, count in enumerate(counts):
        if count:
            gate, up = F.linear(rows[start : start + count], w13[expert]).chunk(2, dim=-1)
            out[order[start : start + count]] = F.linear(F.silu(gate) * up, w2[expert])
            start += count
    terms = out.view(num_tokens, top_k, -1).float() * weights.unsqueeze(-1)
    return terms.sum(dim=1).to(x.dtype)


def fused_moe(x: Tensor, w13: Tensor, w2: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Checked form of `fused_moe_reference`.

    Raises:
        ValueError: widths of tokens and experts do not agree.
    """
    if x.shape[1] != w13.shape[2] or w13.shape[1] != 2 * w2.shape[2] or ids.shape != weights.shape:
        raise ValueError(
            f"fused_moe: x {tuple(x.shape)}, w13 {tuple(w13.shape)}, w2 {tuple(w2.shape)}, ids {tuple(ids.shape)}"
        )
    return fused_moe_reference(x, w13, w2, ids, weights)
