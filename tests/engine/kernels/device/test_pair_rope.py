"""Rotation of neighbouring pairs, of packed heads and of heads on their own."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.pair_rope import rotate_pairs, rotate_pairs_reference
from tests.engine.kernels.device.helpers import assert_near


@pytest.mark.parametrize(("num_rows", "length", "num_heads", "width"), [(2, 37, 16, 64), (3, 5, 3, 12), (1, 1, 1, 2)])
@pytest.mark.parametrize("packed", [True, False])
def test_pairs(num_rows: int, length: int, num_heads: int, width: int, packed: bool, dtype: torch.dtype) -> None:
    qkv = torch.randn(num_rows, length, 3, num_heads, width, dtype=dtype)
    x = qkv[:, :, :2].flatten(2, 3) if packed else qkv[:, :, 1]
    phase = torch.arange(length)[:, None] * torch.rand(width // 2)
    got = rotate_pairs(x, phase.cos(), phase.sin())
    assert got.is_contiguous()
    assert_near(got, rotate_pairs_reference(x, phase.cos(), phase.sin()))


def test_tables_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="rotate_pairs"):
        rotate_pairs(torch.randn(1, 3, 1, 4), torch.ones(2, 2), torch.ones(2, 2))
