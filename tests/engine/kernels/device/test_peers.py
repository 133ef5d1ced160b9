"""Whose memory is written when: the second of two ranks, with the first one's part done by hand, on one device."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.peer_sum import PeerBuffer
from engine.kernels.push_sum import Mailbox
from engine.peers import PeerMemory

ROWS, WIDTH, DATA = 2, 4, 256  # rows and width of every buffer, and where its data begin
BUFFER = 512  # bytes of a buffer: flags int32 [ROWS, 2], data float32 [ROWS, WIDTH]


class Pair:
    """Both ranks' memory; `peers` is how rank 1 sees it."""

    def __init__(self) -> None:
        self.memory = [torch.zeros(5 * BUFFER, dtype=torch.uint8) for _ in range(2)]
        bases = torch.tensor([memory.data_ptr() for memory in self.memory])

        def buffer(index: int) -> tuple[PeerBuffer, Tensor]:
            meetings = torch.zeros(ROWS, dtype=torch.int32)
            at = index * BUFFER
            return PeerBuffer(bases, 1, 2, at, at + DATA, meetings), self.data(1, index)

        box = Mailbox(bases, 1, 2, 0, torch.zeros(0, dtype=torch.int32))
        turns, logits = (buffer(0), buffer(1)), (buffer(3), buffer(4))
        self.peers = PeerMemory(ROWS, self.memory[1], turns, (box, box), buffer(2), logits)

    def data(self, rank: int, index: int) -> Tensor:
        begin = index * BUFFER + DATA
        return self.memory[rank][begin : begin + ROWS * WIDTH * 4].view(torch.float32).view(ROWS, WIDTH)

    def come_first(self, index: int, meeting: int, share: Tensor) -> None:
        """What rank 0 does for a meeting: its share in its memory, and its flag of the first row in that of rank 1."""
        self.data(0, index).copy_(share)
        begin = index * BUFFER
        self.memory[1][begin : begin + 4].view(torch.int32)[0] = meeting


def test_logits_of_two_gatherings_in_a_row_lie_apart() -> None:
    """Rank 0 may still read the first ones when rank 1 writes the second; it has read them once it meets again."""
    pair, number = Pair(), torch.arange(ROWS * WIDTH, dtype=torch.float32).view(ROWS, WIDTH)
    places = []
    for gathering in range(4):
        own, theirs = number + 100 * gathering, -number - 100 * gathering
        pair.come_first(3 + gathering % 2, 1 + gathering // 2, theirs)
        share = pair.peers.logits_share(ROWS)
        places.append(share.data_ptr())
        share.copy_(own)
        assert torch.equal(pair.peers.gather_logits(ROWS), torch.cat([theirs, own], dim=1))
    assert places[0] != places[1]
    assert places[:2] == places[2:]
