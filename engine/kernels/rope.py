"""Partial rotary embedding in half-split ("neox") form (Su et al., 2021)."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


def apply_rotary_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the leading 2 * F dimensions of each head: [T, H, C] with cos, sin [T, F] -> [T, H, C].

    Dimension i is paired with i + F; the remaining dimensions pass through. Runs in `x`'s dtype.
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # broadcast over heads
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


@jit
def partner(col, half: tl.constexpr):
    """The dimension that each of `col` is rotated with: half a rotary width away, or itself where none is."""
    return tl.where(col < half, col + half, tl.where(col < 2 * half, col - half, col))


@jit
def angles(cos_ptr, sin_ptr, token, col, half: tl.constexpr):
    """cos and sin of a token's columns: 1 and 0 where none is rotated."""
    at = token * half + tl.where(col < half, col, col - half)
    turned = col < 2 * half
    return tl.load(cos_ptr + at, mask=turned, other=1.0), tl.load(sin_ptr + at, mask=turned, other=0.0)


@jit
def turn(x, other, cos, sin, col, half: tl.constexpr, dtype: tl.constexpr):
    """Rotate float32 rows [n, C] whose partners are `other`, each product rounded to `dtype` as the reference does."""
    own = (x * cos.to(tl.float32)).to(dtype).to(tl.float32)
    cross = (other * sin.to(tl.float32)).to(dtype).to(tl.float32)
    return tl.where(col < half, own - cross, own + cross)


@jit
def _rotary_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    num_heads: tl.constexpr,
    width: tl.constexpr,
    half: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head, col = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    mask = (head < num_heads) & (col < width)
    row = (token * num_heads + head) * width
    x = tl.load(x_ptr + row + col, mask=mask, other=0.0)
    other = tl.load(x_ptr + row + partner(col, half), mask=mask, other=0.0)
    cos, sin = angles(cos_ptr, sin_ptr, token, col, half)
    out = turn(x.to(tl.float32), other.to(tl.float32), cos, sin, col, half, x.dtype)
    tl.store(out_ptr + row + col, out, mask=mask)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Checked form of `apply_rotary_reference`.

    Raises:
        ValueError: the tables have another dtype or other rows than `x`, or rotate more than its width.
    """
    fits = cos.shape == sin.shape and cos.shape[0] == x.shape[0] and 2 * cos.shape[1] <= x.shape[2]
    if not fits or not cos.dtype == sin.dtype == x.dtype:
        raise ValueError(
            f"apply_rotary: tables {cos.dtype} {tuple(cos.shape)}, {tuple(sin.shape)} do not fit "
            f"{x.dtype} {tuple(x.shape)}"
        )
    if not use_kernel(x):
        return apply_rotary_reference(x, cos, sin)
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    out = torch.empty_like(x)
    num_tokens, num_heads, width = x.shape
    if num_tokens:
        sizes = {"HEADS": next_power_of_2(num_heads), "WIDTH": next_power_of_2(width)}
        _rotary_kernel[(num_tokens,)](x, cos, sin, out, num_heads, width, cos.shape[1], **sizes)
    return out
