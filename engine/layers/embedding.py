"""Word embedding and output head, split over ranks along the vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import Quant
from engine.kernels.linear import linear
from engine.layers.quantised import Stored, quantise_parameter
from engine.parallel import TensorParallel
from engine.quantised import block_of, weight_of


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
        self.vocab_size = vocab_size
        self.weight: Stored = nn.Parameter(torch.empty(len(tp.split(vocab_size, "vocab_size")), hidden_size))

    def quantise(self, _quant: Quant) -> None:
        """Keep the weight in 8 bits: for one token it is an eighth of all that a step reads."""
        block = (block_of(self.vocab_size), block_of(self.weight.shape[1]))
        self.weight = quantise_parameter(self, "weight", "fp8", block)

    def forward(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, V], float32 or the model dtype."""
        peers = self.tp.peers_for(len(x))
        if peers is None:
            return self.tp.all_gather(linear(x, weight_of(self.weight)))
        linear(x, weight_of(self.weight), peers.logits_share(len(x)))
        return peers.gather_logits(len(x))
