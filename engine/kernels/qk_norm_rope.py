"""Between the packed projection and attention: norm of every query and key head, rotation, and the cache write."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.kv_store import check_slots, heads_adjoin, kv_store_reference
from engine.kernels.programmatic import launch_options, wait_then_release
from engine.kernels.rms_norm import inverse_rms, rms_norm_reference, weigh
from engine.kernels.rope import angles, apply_rotary_reference, partner, turn
from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Weights [C] of the query and key norms."""

    q: Tensor
    k: Tensor
    eps: float


Pair = tuple[Tensor, Tensor]


def qk_norm_rope_reference(
    q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms, rotation: Pair, caches: Pair, slots: Tensor
) -> Tensor:
    """Normalise and rotate queries [T, H, C] and keys [T, K, C]; keys and values [T, K, C] go to their slots.

    `rotation` is cos and sin [T, F] in the model dtype. Caches are [num_blocks, block_size, K, C], changed in place;
    `slots` is int64 [T], negative for rows that pad the batch. Returns the queries. Normalised before rotation: the
    other order changes every cached key.
    """
    q, k = rms_norm_reference(q, norms.q, norms.eps), rms_norm_reference(k, norms.k, norms.eps)
    kv_store_reference(apply_rotary_reference(k, *rotation), v, *caches, slots)
    return apply_rotary_reference(q, *rotation)


@jit
def head_weights(weight_ptr, col, width: tl.constexpr, half: tl.constexpr):
    """float32 norm weights of columns `col`, and of those that each is rotated with."""
    own = tl.load(weight_ptr + col, mask=col < width, other=0.0).to(tl.float32)
    other = tl.load(weight_ptr + partner(col, half), mask=col < width, other=0.0).to(tl.float32)
    return own, other


@jit
def raw_heads(row_ptr, col, mask, half: tl.constexpr):
    """Heads [n, C] at `row_ptr` [n, 1], and what each column is rotated with: the same lines again, from the cache."""
    x = tl.load(row_ptr + col, mask=mask, other=0.0)
    return x, tl.load(row_ptr + partner(col, half), mask=mask, other=0.0)


@jit
def norm_turn(x, other, weight, other_weight, cos, sin, col, eps, width: tl.constexpr, half: tl.constexpr):
    """`raw_heads`, normalised by `head_weights` and rotated by `angles`, in float32."""
    x32 = x.to(tl.float32)
    scale = inverse_rms(x32, width, eps)
    normed = weigh(x32, scale, weight, x.dtype).to(tl.float32)
    other_normed = weigh(other.to(tl.float32), scale, other_weight, x.dtype).to(tl.float32)
    return turn(normed, other_normed, cos, sin, col, half, x.dtype)


@jit
def _norm_rope(row_ptr, weight_ptr, cos_ptr, sin_ptr, token, col, mask, eps, width: tl.constexpr, half: tl.constexpr):
    """Heads [n, C] at `row_ptr` [n, 1], normalised and rotated, in float32."""
    x, other = raw_heads(row_ptr, col, mask, half)
    weight, other_weight = head_weights(weight_ptr, col, width, half)
    cos, sin = angles(cos_ptr, sin_ptr, token, col, half)
    return norm_turn(x, other, weight, other_weight, cos, sin, col, eps, width, half)


@jit
def _qk_norm_rope_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slots_ptr,
    q_stride,
    k_stride,
    v_stride,
    eps,
    num_kv_heads: tl.constexpr,
    group: tl.constexpr,
    width: tl.constexpr,
    half: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token and one key/value head, with the `group` query heads that read it."""
    wait_then_release(PDL)
    token, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots_ptr + token)
    col = tl.arange(0, WIDTH)[None, :]
    member = tl.arange(0, GROUP)[:, None]
    mask = (member < group) & (col < width)
    head = kv_head * group + member
    q = _norm_rope(
        q_ptr + token * q_stride + head * width, q_weight_ptr, cos_ptr, sin_ptr, token, col, mask, eps, width, half
    )
    tl.store(out_ptr + (token * num_kv_heads * group + head) * width + col, q, mask=mask)

    one = tl.zeros([1, 1], tl.int32)
    kept = (col < width) & (slot >= 0)
    k_row = k_ptr + token * k_stride + kv_head * width + one
    k = _norm_rope(k_row, k_weight_ptr, cos_ptr, sin_ptr, token, col, col < width, eps, width, half)
    target = (slot * num_kv_heads + kv_head) * width + col
    tl.store(k_cache_ptr + target, k, mask=kept)
    tl.store(v_cache_ptr + target, tl.load(v_ptr + token * v_stride + kv_head * width + col, mask=kept), mask=kept)


def qk_norm_rope(
    q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms, rotation: Pair, caches: Pair, slots: Tensor
) -> Tensor:
    """Checked form of `qk_norm_rope_reference`: one launch. Queries, keys and values may be views of one packed tensor.

    Raises:
        ValueError: shapes, dtypes or memory layouts do not agree.
    """
    check_heads(q, k, v, norms, rotation, caches, slots)
    if not use_kernel(q):
        return qk_norm_rope_reference(q, k, v, norms, rotation, caches, slots)
    num_tokens, num_heads, width = q.shape
    num_kv_heads = k.shape[1]
    group = num_heads // num_kv_heads
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if num_tokens:
        cos, sin = (table.contiguous() for table in rotation)
        strides = (q.stride(0), k.stride(0), v.stride(0))
        sizes = (num_kv_heads, group, width, cos.shape[1], next_power_of_2(group), next_power_of_2(width))
        options = launch_options(q.device)
        _qk_norm_rope_kernel[(num_tokens, num_kv_heads)](
            q, k, v, norms.q, norms.k, cos, sin, out, *caches, slots, *strides, norms.eps, *sizes, **options
        )
    return out


def check_heads(q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms, rotation: Pair, caches: Pair, slots: Tensor) -> None:
    """Whether the arguments of `qk_norm_rope` fit each other.

    Raises:
        ValueError: shapes, dtypes or memory layouts do not agree.
    """
    check_slots(k, v, *caches, slots, "qk_norm_rope")
    num_tokens, num_heads, width = q.shape
    cos, sin = rotation
    weights = norms.q.shape == norms.k.shape == (width,)
    tables = cos.shape == sin.shape and len(cos) == num_tokens and 2 * cos.shape[1] <= width
    tables = tables and cos.dtype == sin.dtype == q.dtype
    heads = q.dtype == k.dtype and k.shape[2] == width and not num_heads % k.shape[1] and heads_adjoin(q)
    if not (weights and tables and heads and len(k) == num_tokens):
        raise ValueError(
            f"qk_norm_rope: {q.dtype} {tuple(q.shape)}, {k.dtype} {tuple(k.shape)}, weights {tuple(norms.q.shape)}, "
            f"{tuple(norms.k.shape)}, tables {cos.dtype} {tuple(cos.shape)}, {tuple(sin.shape)}"
        )
