"""Rotary embedding of interleaved pairs in float32 (Su et al., 2021), as the talker's flow model rotates."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


def rotate_pairs_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate dimensions 2j and 2j + 1 of each head together: [B, S, H, C] with float32 cos, sin [S, C / 2].

    Runs in float32 and returns `x`'s dtype. The Qwen2 decoders pair j with j + C / 2 instead.
    """
    cos, sin = cos[:, None], sin[:, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


@jit
def _rotate_pairs_kernel(
    x_ptr, cos_ptr, sin_ptr, out_ptr, row_stride, length, num_heads: tl.constexpr, width: tl.constexpr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, col = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    mask = (head < num_heads) & (col < width)
    at = head * width + col
    x = tl.load(x_ptr + row * row_stride + at, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(x_ptr + row * row_stride + (at ^ 1), mask=mask, other=0.0).to(tl.float32)
    angle = (row % length) * (width // 2) + col // 2
    cos = tl.load(cos_ptr + angle, mask=col < width, other=1.0)
    sin = tl.load(sin_ptr + angle, mask=col < width, other=0.0)
    out = tl.where(col % 2 == 0, x * cos - other * sin, x * cos + other * sin)
    tl.store(out_ptr + row * num_heads * width + at, out, mask=mask)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Checked form of `rotate_pairs_reference`; heads must lie side by side, rows may have a wider stride.

    Raises:
        ValueError: the tables are not float32 [S, C / 2] of `x` [B, S, H, C].
    """
    length, num_heads, width = x.shape[1:]
    if width % 2 or not cos.shape == sin.shape == (length, width // 2) or not cos.dtype == sin.dtype == torch.float32:
        raise ValueError(
            f"rotate_pairs: tables {cos.dtype} {tuple(cos.shape)}, {sin.dtype} {tuple(sin.shape)} do not fit "
            f"{tuple(x.shape)}"
        )
    if not use_kernel(x):
        return rotate_pairs_reference(x, cos, sin)
    if x.stride(3) != 1 or x.stride(2) != width or x.stride(0) != length * x.stride(1):
        x = x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        sizes = {"HEADS": next_power_of_2(num_heads), "WIDTH": next_power_of_2(width)}
        grid = (x.shape[0] * length,)
        _rotate_pairs_kernel[grid](x, cos, sin, out, x.stride(1), length, num_heads, width, **sizes)
    return out
