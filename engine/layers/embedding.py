"""Word embedding and output head, split over ranks along the vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.parallel import TensorParallel


class VocabParallelEmbedding(nn.Module):
    """Each rank looks up the ids of its rows; the sum over ranks is the embedding."""

    def __init__(self, vocab_size: int, hidden_size: int, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        self.vocab_size = vocab_size
        self.rows = tp.split(vocab_size, "vocab_size")
        self.weight = nn.Parameter(torch.empty(len(self.rows), hidden_size))

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [T] -> [T, D]; ids outside the vocabulary are clipped, as in the released model."""
        ids = ids.clamp(0, self.vocab_size - 1)
        if self.tp.size == 1:
            return F.embedding(ids, self.weight)
        local = ids - self.rows.start
        mine = (local >= 0) & (local < len(self.rows))
        rows = F.embedding(local.masked_fill(~mine, 0), self.weight) * mine.unsqueeze(-1)
        peers = self.tp.peers_for(len(ids))
        return self.tp.all_reduce(rows) if peers is None else peers.sum_embedding(rows)


class ParallelHead(nn.Module):
    """Logits of this rank's rows, gathered over ranks: the product is made in the model dtype, as released."""

    def __init__(self, vocab_size: int, hidden_size: int, tp: TensorParallel) -> None:
        super().__init__()
        self.tp = tp
        self.weight = nn.Parameter(torch.empty(len(tp.split(vocab_size, "vocab_size")), hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, V], float32 or the model dtype."""
        peers = self.tp.peers_for(len(x))
        if peers is None:
            return self.tp.all_gather(F.linear(x, self.weight))
        torch.mm(x, self.weight.t(), out=peers.logits_share(len(x)))
        return peers.gather_logits(len(x))
