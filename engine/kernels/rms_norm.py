"""Root-mean-square normalisation (Zhang and Sennrich, 2019), as the released model rounds it."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.expert_sum import ExpertRows, weighted
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension: [..., D] -> [..., D], accumulated in float32.

    The result is rounded to `x`'s dtype before the weight is applied, in that dtype: fused kernels that
    multiply in float32 differ from the released model in the last bit.
    """
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + eps)
    return weight * (x32 * scale).to(x.dtype)


def add_rms_norm_reference(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Residual sum and its norm: [..., D] twice -> `x + delta`, rounded to the dtype, and its `rms_norm_reference`."""
    total = x + delta
    return total, rms_norm_reference(total, weight, eps)


@jit
def inverse_rms(x, dim, eps):
    """1 / root mean square of float32 rows [..., D] that hold zeros behind `dim`: -> [..., 1]."""
    return tl.rsqrt(tl.sum(x * x, axis=-1, keep_dims=True) / dim + eps)


@jit
def weigh(x, scale, weight, dtype: tl.constexpr):
    """float32 `x * scale`, rounded to `dtype` before and after the weight, as the released model does."""
    return ((x * scale).to(dtype).to(tl.float32) * weight).to(dtype)


@jit
def _rms_norm_kernel(
    x_ptr,
    delta_ptr,
    expert_weights_ptr,
    shared_ptr,
    weight_ptr,
    total_ptr,
    out_ptr,
    eps,
    dim: tl.constexpr,
    ADD: tl.constexpr,
    TOP_K: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row. With TOP_K what is added is the weighted sum of so many rows of experts."""
    row = tl.program_id(0).to(tl.int64) * dim  # int64: T * D passes 2**31 on long prompts
    cols = tl.arange(0, BLOCK)
    mask = cols < dim
    weight = tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    wait_then_release(PDL)
    x = tl.load(x_ptr + row + cols, mask=mask, other=0.0)
    if ADD:
        if TOP_K:
            token = tl.program_id(0).to(tl.int64)
            delta = weighted(
                delta_ptr, expert_weights_ptr, shared_ptr, token, cols, mask, dim, TOP_K, SHARED, x.dtype
            ).to(x.dtype)
        else:
            delta = tl.load(delta_ptr + row + cols, mask=mask, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x.dtype)
        tl.store(total_ptr + row + cols, x, mask=mask)
    x32 = x.to(tl.float32)
    out = weigh(x32, inverse_rms(x32, dim, eps), weight, x.dtype)
    tl.store(out_ptr + row + cols, out, mask=mask)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Row-wise RMS norm over the last dimension.

    Raises:
        ValueError: the last dimension of `x` is not that of `weight`.
    """
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"rms_norm: weight {tuple(weight.shape)} does not fit rows of {tuple(x.shape)}")
    if not use_kernel(x):
        return rms_norm_reference(x, weight, eps)
    x = x.contiguous()
    out = torch.empty_like(x)
    _launch(x, x, weight, x, out, eps, add=False)
    return out


def add_rms_norm(x: Tensor, delta: Tensor | ExpertRows, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add to the residual stream and normalise it in one pass: -> the sum and its norm.

    `delta` may be the rows of experts, which only kernels make and which are summed first.

    Raises:
        ValueError: the two differ in shape or dtype, or do not fit `weight`.
    """
    added = delta.rows if isinstance(delta, ExpertRows) else delta
    shape = (delta.num_tokens, added.shape[-1]) if isinstance(delta, ExpertRows) else added.shape
    if weight.shape != x.shape[-1:] or x.shape != shape or x.dtype != added.dtype:
        raise ValueError(
            f"add_rms_norm: {x.dtype} {tuple(x.shape)} + {added.dtype} {tuple(shape)}, weight {tuple(weight.shape)}"
        )
    if not use_kernel(x):
        assert isinstance(delta, Tensor), "only kernels leave rows of experts unsummed"
        return add_rms_norm_reference(x, delta, weight, eps)
    x = x.contiguous()
    delta = delta.contiguous() if isinstance(delta, Tensor) else delta
    total, out = torch.empty_like(x), torch.empty_like(x)
    _launch(x, delta, weight, total, out, eps, add=True)
    return total, out


def _launch(
    x: Tensor,
    delta: Tensor | ExpertRows,
    weight: Tensor,
    total: Tensor,
    out: Tensor,
    eps: float,
    *,
    add: bool,
) -> None:
    """One program a row; pointers that `add` does not use are passed and never read."""
    dim = x.shape[-1]
    num_rows = x.numel() // dim
    if not num_rows:
        return
    block = next_power_of_2(dim)
    # 8 elements a thread and load are 16 bytes of bfloat16.
    warps = min(max(block // 256, 1), 16)
    added = delta.arguments() if isinstance(delta, ExpertRows) else (delta, delta, delta)
    constants = delta.constants() if isinstance(delta, ExpertRows) else {"TOP_K": 0, "SHARED": False}
    _rms_norm_kernel[(num_rows,)](
        x,
        *added,
        weight,
        total,
        out,
        eps,
        dim,
        ADD=add,
        **constants,
        BLOCK=block,
        num_warps=warps,
        **launch_options(x.device),
    )
