"""Rows as two numbers of 8 bits each, so that the fp8 matrix unit multiplies packed weights as they lie in memory.

A bfloat16 value has 8 significant bits and an e4m3 one has 4: x = s * (hi + lo / 16), where hi is x / s rounded to e4m3
and lo what is left, times 16. s is a power of two for each row that puts the row's largest value into [128, 256). What
is left of a normal hi has at most four bits, and once it is times 16 none below 2^-9, the last place of e4m3: so values
down to 2^-13 of the row's largest come back bit by bit. Smaller ones are off by 2^-14 * s at most, or 2^-21 of the
largest, and a sum that the largest takes part in rounds at 2^-9. A row that holds NaN or infinity gets s = NaN, and so
do all its products.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import torch
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import constexpr, jit, next_power_of_2, tl, use_kernel
from engine.quantised import Quantised, Weight

FIRST_CAPABILITY = (8, 9)  # with a matrix unit for fp8
MOST_WIDTH = 1 << 14  # of a row that registers hold
LEAST_COLUMNS = 32  # that the fp8 matrix unit multiplies at once
REST = constexpr(16.0)  # how much finer lo is than hi

# Biased exponents: of the largest e a power of two 2^(e - 7) is made, which stays normal for e >= 8.
_LARGEST = constexpr(7)
_LEAST_EXPONENT = constexpr(8)
_NOT_FINITE = constexpr(255)
_NAN = constexpr(0x7FC00000)


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Rows [T, K] as e4m3 `parts` [T, 2, K], hi in front of lo, and float32 `scales` [T]."""

    parts: Tensor
    scales: Tensor

    def joined(self) -> Tensor:
        """The rows that are meant, [T, K] in float32."""
        hi, lo = self.parts.float().unbind(dim=1)
        return self.scales[:, None] * (hi + lo / 16)


def split_rows_reference(x: Tensor) -> SplitRows:
    """Rows of x [T, K], bfloat16 or float32 (of which 8 bits survive), in two parts."""
    wide = x.float()
    largest = wide.abs().amax(dim=1) if x.shape[1] else wide.new_zeros(len(x))
    _, exponent = torch.frexp(largest)  # largest = m 2^exponent with m in [0.5, 1)
    power = torch.ldexp(torch.ones_like(largest), (exponent - 8).clamp(min=-126))
    scales = torch.where(largest == 0, torch.ones_like(power), power)
    scales = torch.where(largest.isfinite(), scales, torch.full_like(scales, torch.nan))
    scaled = wide / scales[:, None]
    hi = scaled.to(torch.float8_e4m3fn)
    lo = (16 * (scaled - hi.float())).to(torch.float8_e4m3fn)
    return SplitRows(torch.stack([hi, lo], dim=1), scales)


@jit
def _rounded(x):
    """float32 below 448 to the nearest value that e4m3 has, of two as near to the even one.

    In float32, so that converting it is exact: Triton's interpreter loses the carry of that rounding, and compiled by
    Triton 3.6 a value that has just been narrowed comes back wrong when it is widened again.
    """
    exponent = tl.maximum((x.to(tl.int32, bitcast=True) >> 23) & 255, 127 - 6)
    shift = ((exponent + 20) << 23).to(tl.float32, bitcast=True) * 1.5  # its last place is that of the result
    return (x + shift) - shift


@jit
def _split_kernel(x_ptr, parts_ptr, scales_ptr, width: tl.constexpr, WIDTH: tl.constexpr, PDL: tl.constexpr):
    wait_then_release(PDL)
    row, col = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    x = tl.load(x_ptr + row * width + col, mask=col < width, other=0.0).to(tl.float32)
    # The largest by its bits: infinity and NaN, which a maximum of numbers may drop, have the largest of all.
    exponent = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0) >> 23
    exponent = tl.where(exponent == 0, 127 + _LARGEST, tl.maximum(exponent, _LEAST_EXPONENT))
    scale_bits = tl.where(exponent == _NOT_FINITE, _NAN, (exponent - _LARGEST) << 23)
    inverse = ((254 - (exponent - _LARGEST)) << 23).to(tl.float32, bitcast=True)
    scaled = x * inverse
    hi = _rounded(scaled)
    lo = _rounded((scaled - hi) * REST)
    tl.store(parts_ptr + row * (2 * width) + col, hi.to(tl.float8e4nv), mask=col < width)
    tl.store(parts_ptr + row * (2 * width) + width + col, lo.to(tl.float8e4nv), mask=col < width)
    tl.store(scales_ptr + row, scale_bits.to(tl.float32, bitcast=True))


def split_rows(x: Tensor) -> SplitRows:
    """Checked form of `split_rows_reference`.

    Raises:
        ValueError: rows have gaps or are wider than registers hold.
    """
    if x.dim() != 2 or not x.is_contiguous() or x.shape[1] > MOST_WIDTH:
        raise ValueError(f"split_rows: x {tuple(x.shape)}; rows without gaps of at most {MOST_WIDTH} are needed")
    if not use_kernel(x):
        return split_rows_reference(x)
    num_rows, width = x.shape
    parts = torch.empty(num_rows, 2, width, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    block = next_power_of_2(width)
    if num_rows:
        _split_kernel[(num_rows,)](
            x, parts, scales, width, WIDTH=block, num_warps=max(1, min(8, block // 512)), **launch_options(x.device)
        )
    return SplitRows(parts, scales)


def can_split(x: Tensor, *weights: Weight) -> bool:
    """Whether products of bfloat16 rows like x [T, K] with these weights may go through the fp8 matrix unit."""
    return (
        x.dtype == torch.bfloat16
        and supported(x.device)
        and x.shape[-1] <= MOST_WIDTH
        and all(splits(weight) for weight in weights)
    )


def splits(weight: Weight) -> TypeGuard[Quantised]:
    """Whether the fp8 matrix unit can read `weight`: packed so, with blocks of scales that are wide enough."""
    return isinstance(weight, Quantised) and weight.format == "fp8" and weight.block[1] >= LEAST_COLUMNS


@lru_cache(maxsize=16)
def supported(device: torch.device) -> bool:
    """Whether kernels on `device` can multiply fp8: the interpreter does by way of float16, which holds e4m3 exactly.

    Tensors without storage are launched on by compile checks alone, for such a device.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY
    return True
