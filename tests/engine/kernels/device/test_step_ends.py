"""What a decode step does outside its layers: embeddings, the table of the rotation, the token that is remembered."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.embed import embed, embed_reference
from engine.kernels.gumbel import Kept, gumbel_draw
from engine.kernels.rope_table import rope_table, rope_table_reference
from tests.engine.kernels.device.helpers import assert_near


@pytest.mark.parametrize("dim", [48, 1030])
def test_embeddings_of_a_share_of_the_vocabulary(dim: int, dtype: torch.dtype) -> None:
    """Rows 10 to 29 of 40, ids below, inside, above and outside of both, into memory that is given."""
    table, ids = torch.randn(20, dim, dtype=dtype), torch.tensor([10, 29, 9, 30, -3, 99, 15])
    out = torch.empty(len(ids), dim, dtype=dtype)
    assert embed(ids, table, 10, 40, out) is out
    assert torch.equal(out, embed_reference(ids, table, 10, 40))
    assert torch.equal(out[:2], table[[0, 19]])
    assert not out[2:6].any()
    whole = embed(ids, table, 0, 20)
    assert torch.equal(whole[[4, 5]], table[[0, 19]])


@pytest.mark.parametrize("half", [3, 32])
def test_table_of_the_rotation(half: int, dtype: torch.dtype) -> None:
    """Negative positions and large ones, where a cheap cosine would be off by whole turns."""
    positions = torch.randint(-9000, 200_000, (3, 5))
    axes, inv_freq = torch.randint(3, (half,)), torch.rand(half)
    got, want = (function(positions, axes, inv_freq, dtype) for function in (rope_table, rope_table_reference))
    assert_near(got[0], want[0])
    assert_near(got[1], want[1])


def test_drawn_tokens_go_to_their_places() -> None:
    logits, ones = 3 * torch.randn(3, 5000), torch.ones(3)
    seed, index = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    rows, last = torch.tensor([[0, 4], [0, 1], [0, 6]]), torch.full((8,), -7)
    out = torch.empty(3, dtype=torch.int64)
    assert gumbel_draw(logits, ones, seed, index, out, Kept(last, rows[:, 1])) is out
    assert torch.equal(out, gumbel_draw(logits, ones, seed, index))
    assert last.tolist() == [-7, int(out[1]), -7, -7, int(out[0]), -7, int(out[2]), -7]
