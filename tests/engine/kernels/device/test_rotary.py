"""Rotation, the cache write, and both fused with the head norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.kv_store import kv_store
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope, qk_norm_rope_reference
from engine.kernels.rope import apply_rotary, apply_rotary_reference
from tests.engine.kernels.device.helpers import assert_near

# heads, key/value heads, width, rotated pairs: the released head, the tiny models', odd ones
HEADS = [(16, 2, 128, 32), (4, 2, 32, 8), (6, 2, 12, 3), (3, 3, 8, 4), (5, 1, 16, 1)]


def tables(num_tokens: int, half: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin at negative and at large positions."""
    phase = torch.randint(-3000, 3000, (num_tokens, 1)) * torch.rand(half)
    return phase.cos().to(dtype), phase.sin().to(dtype)


@pytest.mark.parametrize(("num_heads", "_kv_heads", "width", "half"), HEADS)
@pytest.mark.parametrize("num_tokens", [1, 3])
def test_rotation(num_tokens: int, num_heads: int, _kv_heads: int, width: int, half: int, dtype: torch.dtype) -> None:
    x = torch.randn(num_tokens, num_heads, width, dtype=dtype)
    cos, sin = tables(num_tokens, half, dtype)
    assert_near(apply_rotary(x, cos, sin), apply_rotary_reference(x, cos, sin))


def caches(num_kv_heads: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(5, 4, num_kv_heads, width, dtype=dtype), torch.randn(5, 4, num_kv_heads, width, dtype=dtype)


def test_store_writes_its_slots_and_nothing_else(dtype: torch.dtype) -> None:
    k_cache, v_cache = caches(2, 12, dtype)
    k_before, v_before = k_cache.clone(), v_cache.clone()
    k, v = torch.randn(4, 2, 12, dtype=dtype), torch.randn(4, 2, 12, dtype=dtype)
    slots = torch.tensor([19, -1, 0, 7])
    kv_store(k, v, k_cache, v_cache, slots)
    for cache, before, rows in ((k_cache, k_before, k), (v_cache, v_before, v)):
        for slot in range(20):
            found = (slots == slot).nonzero().flatten().tolist()
            want = rows[found[0]] if found else before[slot // 4, slot % 4]
            assert torch.equal(cache[slot // 4, slot % 4], want)


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "width", "half"), HEADS)
@pytest.mark.parametrize("slots", [[6], [19, -1, 0, 7]])
def test_fused_with_norm_and_store(
    num_heads: int, num_kv_heads: int, width: int, half: int, slots: list[int], dtype: torch.dtype
) -> None:
    num_tokens = len(slots)
    packed = torch.randn(num_tokens, num_heads + 2 * num_kv_heads, width, dtype=dtype)
    q, k, v = packed.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    norms = HeadNorms(torch.randn(width, dtype=dtype), torch.randn(width, dtype=dtype), 1e-6)
    rotation = tables(num_tokens, half, dtype)
    ours = caches(num_kv_heads, width, dtype)
    theirs = (ours[0].clone(), ours[1].clone())
    got = qk_norm_rope(q, k, v, norms, rotation, ours, torch.tensor(slots))
    assert_near(got, qk_norm_rope_reference(q, k, v, norms, rotation, theirs, torch.tensor(slots)))
    assert_near(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_packed_heads_that_do_not_adjoin_are_refused() -> None:
    norms = HeadNorms(torch.randn(8), torch.randn(8), 1e-6)
    k = torch.randn(2, 2, 8)
    apart = torch.randn(2, 4, 16)[..., :8]
    with pytest.raises(ValueError, match="qk_norm_rope"):
        qk_norm_rope(apart, k, k, norms, tables(2, 4, torch.float32), caches(2, 8, torch.float32), torch.tensor([0, 1]))
