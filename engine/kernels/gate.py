"""The router's projection: tokens times a narrow matrix, in float32.

A decode step has so few rows that the matrix must be spread over the whole GPU to be read quickly: the input width is
split too, and whoever reads the logits adds the parts.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import cdiv, jit, next_power_of_2, tl, use_kernel


@dataclass(frozen=True, slots=True)
class GateTuning:
    """Sizes of a tile, and parts of the input width."""

    block_experts: int
    block_tokens: int
    block_width: int
    splits: int
    num_warps: int = 4
    num_stages: int = 4


def gate_logits_reference(x: Tensor, weight: Tensor) -> Tensor:
    """Logits of every expert: [T, D] and [E, D] in any dtype -> float32 [T, E].

    float32 in and out is the evident intent of the released gate; its bfloat16 autocast undoes it on GPUs.
    """
    return F.linear(x.float(), weight.float())


@jit
def _gate_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    num_tokens,
    num_experts: tl.constexpr,
    dim: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Products of bfloat16 values are exact in float32, so the matrix unit loses nothing against a float32 product."""
    wait_then_release(PDL)
    expert = tl.program_id(0) * BLOCK_EXPERTS + tl.arange(0, BLOCK_EXPERTS)
    split = tl.program_id(1)
    token = tl.program_id(2) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    share: tl.constexpr = (dim + SPLITS * BLOCK_WIDTH - 1) // (SPLITS * BLOCK_WIDTH) * BLOCK_WIDTH
    expert_ok, token_ok = expert < num_experts, token < num_tokens
    weight_ptr += expert.to(tl.int64)[:, None] * dim
    x_ptr += token.to(tl.int64)[None, :] * dim
    acc = tl.zeros([BLOCK_EXPERTS, BLOCK_TOKENS], tl.float32)
    for at in range(0, share, BLOCK_WIDTH):
        col = split * share + at + tl.arange(0, BLOCK_WIDTH)
        weight = tl.load(weight_ptr + col[None, :], mask=expert_ok[:, None] & (col < dim)[None, :], other=0.0)
        x = tl.load(x_ptr + col[:, None], mask=token_ok[None, :] & (col < dim)[:, None], other=0.0)
        acc = tl.dot(weight, x, acc, input_precision="ieee")
    row = (split * num_tokens + token).to(tl.int64)[None, :] * num_experts
    tl.store(out_ptr + row + expert[:, None], acc, mask=expert_ok[:, None] & token_ok[None, :])


def gate_parts(x: Tensor, weight: Tensor, tuning: GateTuning | None = None) -> Tensor:
    """Logits as parts to be added: [T, D] and [E, D] of one dtype -> float32 [S, T, E]; S is 1 for long batches.

    Raises:
        ValueError: widths or dtypes do not agree.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or x.dtype != weight.dtype:
        raise ValueError(f"gate: {x.dtype} {tuple(x.shape)} with weight {weight.dtype} {tuple(weight.shape)}")
    if not use_kernel(x):
        return gate_logits_reference(x, weight)[None]
    x = x.contiguous()
    (num_tokens, dim), num_experts = x.shape, weight.shape[0]
    t = tuning or choose_gate_tuning(num_tokens, x.element_size())
    out = torch.empty(t.splits, num_tokens, num_experts, dtype=torch.float32, device=x.device)
    if num_tokens:
        _gate_kernel[(cdiv(num_experts, t.block_experts), t.splits, cdiv(num_tokens, t.block_tokens))](
            x,
            weight,
            out,
            num_tokens,
            num_experts,
            dim,
            SPLITS=t.splits,
            BLOCK_EXPERTS=t.block_experts,
            BLOCK_TOKENS=t.block_tokens,
            BLOCK_WIDTH=t.block_width,
            num_warps=t.num_warps,
            num_stages=t.num_stages,
            **launch_options(x.device),
        )
    return out


def gate_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Checked form of `gate_logits_reference`, for tokens and weight of one dtype.

    Raises:
        ValueError: widths or dtypes do not agree.
    """
    parts = gate_parts(x, weight)
    return parts[0] if len(parts) == 1 else parts.sum(dim=0)


def choose_gate_tuning(num_tokens: int, element_bytes: int) -> GateTuning:
    """About two programs for each multiprocessor of a Hopper GPU at the released sizes (256 experts, width 4096)."""
    width = 256 // element_bytes
    if num_tokens <= 64:
        return GateTuning(16, max(16, next_power_of_2(num_tokens)), width, splits=16)
    if num_tokens <= 512:
        return GateTuning(64, 64, width, splits=4)
    return GateTuning(64, 64, width // 2, splits=1)
