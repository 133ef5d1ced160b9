"""cos and sin of a step's positions in one launch: every layer reads them."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


def rope_table_reference(
    positions: Tensor, axes: Tensor, inv_freq: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """int64 positions [3, T], the axis of each frequency int64 [F], float32 [F] -> cos, sin [T, F] in `dtype`."""
    phase = positions[axes].float() * inv_freq[:, None]  # [F, T]
    return phase.cos().t().to(dtype), phase.sin().t().to(dtype)


@jit
def _rope_table_kernel(
    positions_ptr,
    axes_ptr,
    inv_freq_ptr,
    cos_ptr,
    sin_ptr,
    num_tokens,
    half: tl.constexpr,
    HALF: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token."""
    wait_then_release(PDL)
    token, i = tl.program_id(0).to(tl.int64), tl.arange(0, HALF)
    mask = i < half
    axis = tl.load(axes_ptr + i, mask=mask, other=0)
    position = tl.load(positions_ptr + axis * num_tokens + token, mask=mask, other=0).to(tl.float32)
    phase = position * tl.load(inv_freq_ptr + i, mask=mask, other=0.0)
    tl.store(cos_ptr + token * half + i, tl.cos(phase), mask=mask)
    tl.store(sin_ptr + token * half + i, tl.sin(phase), mask=mask)


def rope_table(positions: Tensor, axes: Tensor, inv_freq: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Checked form of `rope_table_reference`.

    Raises:
        ValueError: the shapes do not agree.
    """
    if positions.ndim != 2 or axes.shape != inv_freq.shape or axes.ndim != 1:
        raise ValueError(f"rope_table: {tuple(positions.shape)}, {tuple(axes.shape)}, {tuple(inv_freq.shape)}")
    if not use_kernel(positions):
        return rope_table_reference(positions, axes, inv_freq, dtype)
    num_tokens, half = positions.shape[1], len(axes)
    cos, sin = torch.empty(2, num_tokens, half, dtype=dtype, device=positions.device).unbind()
    if num_tokens:
        _rope_table_kernel[(num_tokens,)](
            positions.contiguous(),
            axes,
            inv_freq,
            cos,
            sin,
            num_tokens,
            half,
            HALF=next_power_of_2(half),
            num_warps=1,
            **launch_options(positions.device),
        )
    return cos, sin
