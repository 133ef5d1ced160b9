"""Weights in 8 or 4 bits: how values are packed, and the container that layers and the loader share.

fp8 is e4m3 with one scale for each block of 128 x 128. The scale is a power of two: a floating-point format loses
nothing by that (only its smallest values, 2^-15 of a block's largest, become coarser), and a weight times its scale
is then exact in bfloat16, so that kernels may scale wherever it is cheapest and still compute with the very numbers
that `dequantise` gives.

int4 is one scale for 128 values of a row. The value farthest from zero becomes -8, whatever its sign, since the scale
has a sign too: 16 levels are used, not 15. A byte holds column j of a group in its low and column j + 64 in its high
half, so that a kernel reads 64 bytes as two runs of 64 columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Format = Literal["fp8", "int4"]

BLOCK = 128
LEAST_BLOCK = 16  # what a matrix unit multiplies at once
MOST_RANKS = 8
GROUP = 128
FP8_LARGEST = 448.0
FILL_ROWS = 4096


def block_of(total: int) -> int:
    """Rows or columns of a block of a width of `total` over all ranks, such that ranks cut between blocks.

    128 wherever a rank of up to 8 keeps a multiple of 128; a power of two below that in smaller models, at least 16.
    """
    share = total // MOST_RANKS if total % MOST_RANKS == 0 else total
    return max(LEAST_BLOCK, min(BLOCK, share & -share))


@dataclass(frozen=True, slots=True)
class Quantised:
    """Weights [..., N, K] in packed form.

    fp8: `packed` uint8 [..., N, K], the bits of e4m3; `scales` float32 [..., N / rows, K / columns], rounded up.
    int4: `packed` uint8 [..., N, K / 2]; `scales` bfloat16 [..., K / 128, N].
    """

    format: Format
    packed: Tensor
    scales: Tensor
    block: tuple[int, int]

    @property
    def shape(self) -> torch.Size:
        """Shape of the weights that are meant."""
        *lead, width = self.packed.shape
        return torch.Size((*lead, width if self.format == "fp8" else 2 * width))

    @property
    def num_bytes(self) -> int:
        """What a kernel that reads everything reads."""
        return self.packed.nbytes + self.scales.nbytes

    @property
    def numbers(self) -> tuple[Tensor, Tensor]:
        """Of fp8: the packed bytes as the numbers that they are, and the scales."""
        return self.packed.view(torch.float8_e4m3fn), self.scales

    def is_contiguous(self) -> bool:
        """Whether kernels can read it."""
        return self.packed.is_contiguous() and self.scales.is_contiguous()

    def __getitem__(self, index: int | slice | Tensor) -> Quantised:
        """Some of the leading dimension's matrices."""
        return Quantised(self.format, self.packed[index], self.scales[index], self.block)

    def half(self, index: int) -> Quantised:
        """Half `index` of the rows: its block boundaries are this one's too."""
        rows = 1 if self.format == "int4" else self.block[0]
        if self.packed.shape[-2] % (2 * rows):
            raise ValueError(f"{self.packed.shape[-2]} rows in blocks of {rows} have no halves")
        scale_rows = -1 if self.format == "int4" else -2
        packed, scales = self.packed.chunk(2, dim=-2)[index], self.scales.chunk(2, dim=scale_rows)[index]
        return Quantised(self.format, packed, scales, self.block)

    def fill(self, weight: Tensor) -> None:
        """Pack `weight` [..., N, K] into this storage, some rows at a time: what is needed in between is many bytes."""
        step = max(1, FILL_ROWS // self.block[0]) * self.block[0]
        for start in range(0, self.packed.shape[-2], step):
            rows = slice(start, start + step)
            packed, scales = pack(weight[..., rows, :].to(self.packed.device), self.format, self.block)
            self.packed[..., rows, :] = packed
            if self.format == "int4":
                self.scales[..., rows] = scales
            else:
                at = start // self.block[0]
                self.scales[..., at : at + scales.shape[-2], :] = scales

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The weights [..., N, K] that the packed numbers stand for, rounded to `dtype` once."""
        if self.format == "int4":
            return _unpack_int4(self.packed, self.scales).to(dtype)
        values = self.packed.view(torch.float8_e4m3fn).to(torch.float32)
        return (values * _spread(self.scales, self.block, self.shape)).to(dtype)


class QuantisedWeight(nn.Module):
    """Storage of a quantised parameter, in the place and under the name of the plain one."""

    packed: Tensor
    scales: Tensor

    def __init__(self, format: Format, shape: tuple[int, ...], block: tuple[int, int]) -> None:
        super().__init__()
        self.format: Format = format
        self.block = block
        self.shape = torch.Size(shape)
        *lead, n, k = shape
        if format == "fp8":
            self.register_buffer("packed", torch.empty(*lead, n, k, dtype=torch.uint8))
            self.register_buffer("scales", torch.empty(*lead, -(-n // block[0]), -(-k // block[1])))
        else:
            self.register_buffer("packed", torch.empty(*lead, n, k // 2, dtype=torch.uint8))
            self.register_buffer("scales", torch.empty(*lead, k // GROUP, n, dtype=torch.bfloat16))

    @property
    def value(self) -> Quantised:
        """What layers compute with and the loader fills."""
        return Quantised(self.format, self.packed, self.scales, self.block)


Weight = Tensor | Quantised


def weight_of(weight: Tensor | QuantisedWeight) -> Weight:
    """A layer's weight as kernels take it."""
    return weight.value if isinstance(weight, QuantisedWeight) else weight


def dequantised(weight: Weight, dtype: torch.dtype) -> Tensor:
    """A weight as a plain tensor; one that is plain stays what it is."""
    return weight.dequantise(dtype) if isinstance(weight, Quantised) else weight


def pack(weight: Tensor, format: Format, block: tuple[int, int] = (BLOCK, BLOCK)) -> tuple[Tensor, Tensor]:
    """Weights [..., N, K] -> packed numbers and scales as `Quantised` has them.

    Raises:
        ValueError: int4 groups do not divide K.
    """
    return _pack_fp8(weight, block) if format == "fp8" else _pack_int4(weight)


def _pack_fp8(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    n, k = weight.shape[-2:]
    rows, columns = block
    weight = weight.float()
    padded = nn.functional.pad(weight, (0, -k % columns, 0, -n % rows))
    blocks = padded.reshape(*padded.shape[:-2], -(-n // rows), rows, -(-k // columns), columns)
    scales = _power_of_two(blocks.abs().amax(dim=(-3, -1)) / FP8_LARGEST)
    packed = (blocks / scales[..., :, None, :, None]).to(torch.float8_e4m3fn).view(torch.uint8)
    return packed.view(padded.shape)[..., :n, :k], scales


def _power_of_two(least: Tensor) -> Tensor:
    """The smallest power of two that is not below `least` >= 0; 1 for 0."""
    mantissa, exponent = torch.frexp(least)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    power = torch.ldexp(torch.ones_like(least), exponent)
    return torch.where(least == 0, torch.ones_like(least), torch.where(least.isfinite(), power, least))


def _spread(scales: Tensor, block: tuple[int, int], shape: torch.Size) -> Tensor:
    """A block's scale at each of its elements: -> [..., N, K]."""
    rows, columns = block
    wide = scales[..., :, None, :, None].expand(*scales.shape[:-1], rows, scales.shape[-1], columns)
    size = (*scales.shape[:-2], scales.shape[-2] * rows, scales.shape[-1] * columns)
    return wide.reshape(size)[..., : shape[-2], : shape[-1]]


def _pack_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    if weight.shape[-1] % GROUP:
        raise ValueError(f"int4 needs a multiple of {GROUP} columns, not {weight.shape[-1]}")
    groups = weight.float().reshape(*weight.shape[:-1], -1, GROUP)
    farthest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    scales = (farthest / -8).to(torch.bfloat16)
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    numbers = (groups / scales.float()).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
    low, high = numbers.chunk(2, dim=-1)
    return (low | (high << 4)).flatten(-2), scales.squeeze(-1).transpose(-1, -2)


def _unpack_int4(packed: Tensor, scales: Tensor) -> Tensor:
    pairs = packed.reshape(*packed.shape[:-1], -1, GROUP // 2)
    numbers = torch.cat([pairs & 15, pairs >> 4], dim=-1).float() - 8
    return (numbers * scales.transpose(-1, -2).float().unsqueeze(-1)).flatten(-2)
