"""Word embedding and output head, split over ranks along the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.config import Quant
from engine.kernels.embed import embed
from engine.kernels.linear import linear
from engine.layers.quantised import Stored, quantise_parameter
from engine.parallel import TensorParallel
from engine.quantised import block_of, weight_of


def empty_embedding(num_rows: int, width: int) -> nn.Embedding:
    """A table [num_rows, width] to be loaded: not initialised, since on the meta device that imports torch's compiler,
    which takes seconds."""
    return nn.Embedding(num_rows, width, _weight=torch.empty(num_rows, width))


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
        peers = self.tp.peers_for(len(ids))
        share = None if peers is None else peers.embedding_share(len(ids))
        rows = embed(ids, self.weight, self.rows.start, self.vocab_size, share)
        return self.tp.all_reduce(rows) if peers is None else peers.sum_embedding(len(ids))


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

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[T, D] -> float32 [T, V], in `out` if given."""
        peers = self.tp.peers_for(len(x))
        if peers is not None:
            linear(x, weight_of(self.weight), peers.logits_share(len(x)))
            return peers.gather_logits(len(x), out)
        logits = self.tp.all_gather(linear(x, weight_of(self.weight)))
        return logits.float() if out is None else out.copy_(logits)
