from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels.varlen_attention import varlen_attention


def one_by_one(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """The definition, sequence by sequence in float64."""
    parts = []
    for a, b, c in zip(*(x.double().split(lengths) for x in (q, k, v)), strict=True):
        scores = torch.einsum("ihc,jhc->hij", a, b) * a.shape[-1] ** -0.5
        parts.append(torch.einsum("hij,jhc->ihc", scores.softmax(dim=-1), c))
    return torch.cat(parts)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), num_heads=st.integers(1, 3))
def test_each_sequence_attends_to_itself_only(lengths: list[int], num_heads: int) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    q, k, v = torch.randn(3, sum(lengths), num_heads, 12, generator=generator).unbind()
    want = one_by_one(q, k, v, lengths)
    torch.testing.assert_close(varlen_attention(q, k, v, lengths).double(), want, rtol=1e-5, atol=1e-5)


def test_softmax_of_bfloat16_is_accurate() -> None:
    q, k, v = torch.randn(3, 600, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16().unbind()
    lengths = [300, 300]
    got = varlen_attention(q, k, v, lengths)
    assert got.dtype == torch.bfloat16
    want = one_by_one(q, k, v, lengths)
    # Half a unit in the last place of bfloat16, and a little for the sums: weights rounded before softmax miss this.
    assert float((got.double() - want).norm() / want.norm()) < 4e-3


@pytest.mark.parametrize("lengths", [[], [3], [3, 4], [7, 0], [8, -1]])
def test_lengths_that_do_not_cover_the_tokens_are_refused(lengths: list[int]) -> None:
    x = torch.zeros(7 if lengths != [3, 4] else 8, 1, 4)
    with pytest.raises(ValueError, match="lengths"):
        varlen_attention(x, x, x, lengths)


def test_unequal_shapes_are_refused() -> None:
    x = torch.zeros(4, 2, 8)
    with pytest.raises(ValueError, match="equal shapes"):
        varlen_attention(x, x[:, :1], x[:, :1], [4])
