"""Sums over ranks by words that carry the number of their meeting: two ranks, one after the other, on one device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.expert_sum import ExpertRows, expert_sum_reference
from engine.kernels.peer_sum import sum_add_norm_reference
from engine.kernels.push_sum import Mailbox, push_sum_add_norm, takes_push
from tests.engine.kernels.device.helpers import assert_near

ROWS, DIM, OFFSET = 3, 64, 128
BF16 = torch.bfloat16


class Ranks:
    """The memory of two ranks, and what each has to do with it."""

    def __init__(self) -> None:
        self.memory = [torch.zeros(OFFSET // 8 + ROWS * 2 * DIM // 2, dtype=torch.int64) for _ in range(2)]
        bases = torch.tensor([memory.data_ptr() for memory in self.memory])
        self.boxes = [Mailbox(bases, rank, 2, OFFSET, torch.zeros(ROWS, dtype=torch.int32)) for rank in range(2)]

    def words(self, owner: int, sender: int) -> Tensor:
        """What `sender` has left in the memory of `owner`: int64 [ROWS, DIM / 2]."""
        return self.memory[owner][OFFSET // 8 :].view(ROWS, 2, DIM // 2)[:, sender]


def words_of(share: Tensor, number: int) -> Tensor:
    """The number of the meeting above two values."""
    return (number << 32) | (share.view(torch.int32).long() & 0xFFFFFFFF)


def whole_numbers(*shape: int) -> Tensor:
    """Small enough for every sum to be exact in bfloat16, whose rounding the interpreter does otherwise."""
    return torch.randint(-30, 31, shape).to(BF16)


def test_each_rank_sends_its_words_and_sums_in_rank_order() -> None:
    ranks, weight = Ranks(), whole_numbers(DIM)
    for number in (1, 2, 3):
        shares, x = [whole_numbers(ROWS, DIM) for _ in range(2)], whole_numbers(ROWS, DIM)
        want_total, want = sum_add_norm_reference(shares, x, weight, 1e-6)
        ranks.words(1, 0).copy_(words_of(shares[0], number))  # as if rank 0 had come first
        for rank in (1, 0):  # rank 0 finds what rank 1 has sent
            total, normed = push_sum_add_norm(ranks.boxes[rank], shares[rank], x, weight, 1e-6)
            assert torch.equal(total, want_total)
            assert_near(normed, want)
        assert torch.equal(ranks.words(0, 1), words_of(shares[1], number))
        assert torch.equal(ranks.words(1, 0), words_of(shares[0], number))
        assert [box.meetings.tolist() for box in ranks.boxes] == [[number] * ROWS] * 2


@pytest.mark.parametrize("with_shared", [True, False])
def test_a_share_that_is_the_rows_of_experts(with_shared: bool) -> None:
    ranks, weight, x = Ranks(), whole_numbers(DIM), whole_numbers(ROWS, DIM)
    weights = torch.randint(1, 3, (ROWS, 4)).float()
    found = ExpertRows(whole_numbers(ROWS * 4, DIM), weights, whole_numbers(ROWS, DIM) if with_shared else None)
    theirs, own = whole_numbers(ROWS, DIM), expert_sum_reference(found)
    ranks.words(1, 0).copy_(words_of(theirs, 1))
    total, normed = push_sum_add_norm(ranks.boxes[1], found, x, weight, 1e-6)
    want_total, want = sum_add_norm_reference([theirs, own], x, weight, 1e-6)
    assert torch.equal(total, want_total)
    assert_near(normed, want)
    assert torch.equal(ranks.words(0, 1), words_of(own, 1))


def test_fewer_rows_meet_on_their_own() -> None:
    """A row counts its meetings alone: steps of other batch sizes come in between."""
    ranks, weight = Ranks(), whole_numbers(DIM)
    for rows, numbers in ((1, [1, 0, 0]), (3, [2, 1, 1])):
        share = whole_numbers(rows, DIM)
        sent = torch.stack([words_of(share[row], numbers[row]) for row in range(rows)])
        ranks.words(1, 0)[:rows].copy_(sent)
        total, _ = push_sum_add_norm(ranks.boxes[1], share, share, weight, 1e-6)
        assert torch.equal(total, 3 * share)
        assert ranks.boxes[1].meetings.tolist() == numbers


@pytest.mark.parametrize(
    ("x", "taken"),
    [
        (torch.empty(64, 4096, dtype=BF16), True),
        (torch.empty(65, 4096, dtype=BF16), False),
        (torch.empty(0, 4096, dtype=BF16), False),
        (torch.empty(4, 4096), False),
        (torch.empty(4, 4095, dtype=BF16), False),
        (torch.empty(4, 3072, dtype=BF16), False),
    ],
)
def test_what_goes_that_way(x: Tensor, taken: bool) -> None:
    assert takes_push(x, 64) is taken
