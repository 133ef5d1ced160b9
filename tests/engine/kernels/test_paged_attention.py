"""Paged attention against dense causal attention written out, whatever the blocks and the split into steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from engine.kernels.kv_store import kv_store
from engine.kernels.paged_attention import PagedLayout, paged_attention

BLOCK, NUM_BLOCKS, HEADS, KV_HEADS, WIDTH = 4, 32, 6, 2, 8


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one whole sequence: q [S, H, C], k and v [S, K, C] -> [S, H, C]."""
    group = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)
    for h in range(q.shape[1]):
        for i in range(q.shape[0]):
            scores = k[: i + 1, h // group] @ q[i, h] / WIDTH**0.5
            out[i, h] = scores.softmax(0) @ v[: i + 1, h // group]
    return out


class Sequence:
    """Random q, k, v of one sequence, and where its blocks lie."""

    def __init__(self, length: int, blocks: list[int]) -> None:
        self.q = torch.randn(length, HEADS, WIDTH)
        self.k = torch.randn(length, KV_HEADS, WIDTH)
        self.v = torch.randn(length, KV_HEADS, WIDTH)
        self.blocks = blocks

    def slots(self, start: int, end: int) -> list[int]:
        return [self.blocks[p // BLOCK] * BLOCK + p % BLOCK for p in range(start, end)]


def run(caches: tuple[Tensor, Tensor], work: list[tuple[Sequence, int, int]]) -> list[Tensor]:
    """One step that computes positions [start, end) of each sequence."""
    work = sorted(work, key=lambda item: item[2] - item[1] > 1)
    starts = [0]
    for _, start, end in work:
        starts.append(starts[-1] + end - start)
    widest = max(len(s.blocks) for s, _, _ in work)
    tables = torch.tensor([s.blocks + [0] * (widest - len(s.blocks)) for s, _, _ in work])
    lengths = tuple(end for _, _, end in work)
    decodes = sum(end - start == 1 for _, start, end in work)
    layout = PagedLayout(tables, torch.tensor(lengths), decodes, tuple(starts), lengths)
    slots = torch.tensor([slot for s, start, end in work for slot in s.slots(start, end)])
    k, v, q = (torch.cat([getattr(s, n)[a:b] for s, a, b in work]) for n in ("k", "v", "q"))
    kv_store(k, v, *caches, slots)
    out = paged_attention(q, *caches, layout)
    return [out[a:b] for a, b in pairwise(starts)]


@pytest.fixture
def caches() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    # Not zeros: what an earlier request left in a block must not matter.
    size = (NUM_BLOCKS, BLOCK, KV_HEADS, WIDTH)
    return torch.randn(size), torch.randn(size)


def test_whole_prompt(caches: tuple[Tensor, Tensor]) -> None:
    s = Sequence(11, [7, 3, 20])
    (out,) = run(caches, [(s, 0, 11)])
    torch.testing.assert_close(out, dense(s.q, s.k, s.v))


@pytest.mark.parametrize("splits", [[5, 11], [1, 2, 11], [4, 8, 10, 11], list(range(1, 12))])
def test_chunks_equal_the_whole(caches: tuple[Tensor, Tensor], splits: list[int]) -> None:
    s = Sequence(11, [7, 3, 20])
    parts = [run(caches, [(s, a, b)])[0] for a, b in zip([0, *splits[:-1]], splits, strict=True)]
    torch.testing.assert_close(torch.cat(parts), dense(s.q, s.k, s.v))


def test_decodes_and_prefills_in_one_step(caches: tuple[Tensor, Tensor]) -> None:
    long, short, fresh = Sequence(9, [1, 2, 4]), Sequence(3, [5]), Sequence(6, [8, 6])
    run(caches, [(long, 0, 8), (short, 0, 2)])
    outs = run(caches, [(long, 8, 9), (short, 2, 3), (fresh, 0, 6)])
    for s, out in zip((long, short, fresh), outs, strict=True):
        torch.testing.assert_close(out, dense(s.q, s.k, s.v)[-len(out) :])


def test_layout_that_does_not_cover_the_tokens_is_refused(caches: tuple[Tensor, Tensor]) -> None:
    layout = PagedLayout(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([1]), 1, (0, 1), (1,))
    with pytest.raises(ValueError, match="paged_attention"):
        paged_attention(torch.zeros(2, HEADS, WIDTH), *caches, layout)


def test_a_sequence_of_length_zero_pads_the_batch(caches: tuple[Tensor, Tensor]) -> None:
    layout = PagedLayout(torch.tensor([[7], [0]]), torch.tensor([3, 0]), 2, (0, 1, 2), (3, 0))
    out = paged_attention(torch.randn(2, HEADS, WIDTH), *caches, layout)
    assert torch.equal(out[1], torch.zeros(HEADS, WIDTH))
    assert float(out[0].abs().min()) > 0


def test_bounds_of_the_prefills_lie_behind_the_decodes() -> None:
    layout = PagedLayout(
        torch.zeros(4, 2, dtype=torch.int64), torch.tensor([5, 6, 9, 8]), 2, (0, 1, 2, 7, 10), (5, 6, 9, 8)
    )
    assert layout.prefill_starts is not None
    assert layout.prefill_starts.tolist() == [2, 7, 10]
    assert layout.most_new == 5
    decodes_only = PagedLayout(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([1]), 1, (0, 1), (1,))
    assert decodes_only.prefill_starts is None


def test_rows_without_a_slot_are_stored_nowhere(caches: tuple[Tensor, Tensor]) -> None:
    before = caches[0].clone()
    k = torch.randn(2, KV_HEADS, WIDTH)
    kv_store(k, k, *caches, torch.tensor([-1, 6]))
    before[1, 2] = k[1]
    assert torch.equal(caches[0], before)
