"""Memory of every rank that the others' GPUs can read and write: buffers for the sums of small steps."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from engine.kernels.expert_sum import ExpertRows
from engine.kernels.paths import current
from engine.kernels.peer_sum import PeerBuffer, peer_gather, peer_sum, peer_sum_add_norm
from engine.kernels.push_sum import MOST_ROWS, WORD_BYTES, Mailbox, push_sum_add_norm, takes_push

log = logging.getLogger(__name__)

_ALIGN = 4096


@dataclass(slots=True)
class PeerMemory:
    """Two buffers that the sums of a forward pass take turns with, one for the embedding, two for logits.

    A pass must sum an even number of times (two a layer), so that the next one begins with the other buffer. Logits
    take turns by themselves: where a prompt is scored they are gathered several times, and no sum lies in between that
    would tell that the others have read the last ones. The memory is that of all ranks: each of them does the same in
    the same order.
    """

    max_tokens: int
    _region: Tensor
    _turns: tuple[tuple[PeerBuffer, Tensor], tuple[PeerBuffer, Tensor]]
    _boxes: tuple[Mailbox, Mailbox]
    _embedding: tuple[PeerBuffer, Tensor]
    _logits: tuple[tuple[PeerBuffer, Tensor], tuple[PeerBuffer, Tensor]]
    _next: int = field(default=0)
    _next_logits: int = field(default=0)

    def share(self, num_tokens: int) -> Tensor:
        """Where this rank's share [T, D] of the next sum goes."""
        return self._turns[self._next][1][:num_tokens]

    def sum_add_norm(self, x: Tensor, share: Tensor | ExpertRows, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Residual stream [T, D] plus the ranks' shares, and its norm."""
        (buffer, data), box = self._turns[self._next], self._boxes[self._next]
        self._next = 1 - self._next
        if current().push_sums and takes_push(x, len(box.meetings)):
            return push_sum_add_norm(box, share, x, weight, eps)
        place = data[: len(x)]
        if isinstance(share, ExpertRows):
            share.summed(place)
        elif share.data_ptr() != place.data_ptr():
            place.copy_(share)
        return peer_sum_add_norm(buffer, x, weight, eps)

    def embedding_share(self, num_tokens: int) -> Tensor:
        """Where this rank's rows [T, D] of the embedding go."""
        return self._embedding[1][:num_tokens]

    def sum_embedding(self, num_tokens: int) -> Tensor:
        """The sum of the ranks' [T, D]."""
        buffer, data = self._embedding
        return peer_sum(buffer, data[:num_tokens])

    def logits_share(self, num_tokens: int) -> Tensor:
        """Where this rank's logits [T, V / size] of the next gathering go."""
        return self._logits[self._next_logits][1][:num_tokens]

    def gather_logits(self, num_tokens: int, out: Tensor | None = None) -> Tensor:
        """All ranks' logits, float32 [T, V], in `out` if given."""
        buffer, data = self._logits[self._next_logits]
        self._next_logits = 1 - self._next_logits
        return peer_gather(buffer, data[:num_tokens], out)


def open_peers(
    rank: int, size: int, max_tokens: int, hidden_size: int, vocab_share: int, dtype: torch.dtype, device: torch.device
) -> PeerMemory | None:
    """Memory shared by all ranks for steps of up to `max_tokens`, or None where the GPUs cannot reach each other.

    Every rank gets the same answer.
    """
    rows = max_tokens
    widths = (hidden_size, hidden_size, hidden_size, vocab_share, vocab_share)
    offsets, mail_at = _offsets(rows, size, widths, dtype.itemsize)
    mail_rows = min(rows, MOST_ROWS)
    mail_bytes = mail_rows * size * (hidden_size // 2) * WORD_BYTES
    total = mail_at + 2 * mail_bytes
    found = _allocate(total, device)
    reachable = torch.tensor([found is not None], dtype=torch.int32)
    dist.all_reduce(reachable, op=dist.ReduceOp.MIN)
    if found is None or not int(reachable):
        log.warning("the GPUs cannot read each other's memory: every sum over ranks goes through NCCL")
        return None
    region, addresses = found
    bases = torch.tensor(addresses, dtype=torch.int64, device=device)

    def buffer(index: int) -> tuple[PeerBuffer, Tensor]:
        flags, data = offsets[index]
        count = rows * widths[index] * dtype.itemsize
        view = region[data : data + count].view(dtype).view(rows, widths[index])
        meetings = torch.zeros(rows, dtype=torch.int32, device=device)
        return PeerBuffer(bases, rank, size, flags, data, meetings), view

    def mailbox(index: int) -> Mailbox:
        meetings = torch.zeros(mail_rows, dtype=torch.int32, device=device)
        return Mailbox(bases, rank, size, mail_at + index * mail_bytes, meetings)

    turns, boxes = (buffer(0), buffer(1)), (mailbox(0), mailbox(1))
    torch.cuda.synchronize(device)
    dist.barrier()  # nobody may meet in flags that another has not cleared
    return PeerMemory(max_tokens, region, turns, boxes, buffer(2), (buffer(3), buffer(4)))


def _offsets(rows: int, size: int, widths: tuple[int, ...], item: int) -> tuple[list[tuple[int, int]], int]:
    """Where flags and data of each buffer begin, in bytes, and how many bytes there are."""
    at = 0
    offsets = []
    for width in widths:
        flags = at
        data = -(-(flags + rows * size * 4) // _ALIGN) * _ALIGN
        at = -(-(data + rows * width * item) // _ALIGN) * _ALIGN
        offsets.append((flags, data))
    return offsets, at


def _allocate(num_bytes: int, device: torch.device) -> tuple[Tensor, list[int]] | None:
    """Zeroed bytes of this rank, and the addresses of every rank's."""
    # Imported late: the module is private to torch, and only multi-GPU engines need it.
    from torch.distributed import _symmetric_memory as symmetric_memory

    try:
        region = symmetric_memory.empty(num_bytes, dtype=torch.uint8, device=device)
        group = dist.group.WORLD
        assert group is not None, "ranks meet before they share memory"
        handle = symmetric_memory.rendezvous(region, group)
    except RuntimeError as error:
        log.warning("symmetric memory is not to be had: %s", str(error).splitlines()[0])
        return None
    region.zero_()
    return region, [int(address) for address in handle.buffer_ptrs]
