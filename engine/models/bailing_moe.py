"""The Ling-2.0 decoder that Ming calls its thinker; follows `BailingMoeV2Model` of the released code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from torch import Tensor, nn

from engine.kernels.expert_sum import ExpertRows
from engine.layers.attention import Attention
from engine.layers.batch import Batch, LayerCache
from engine.layers.embedding import ParallelHead, VocabParallelEmbedding
from engine.layers.moe import DenseMLP, SparseMoE
from engine.layers.norm import ResidualNorm
from engine.layers.rope import Rotation, VideoRope
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward with residuals.

    What a block contributes is added by the norm behind it, with the sum over ranks, in one pass over the rows.
    """

    def __init__(self, cfg: LLMConfig, index: int, tp: TensorParallel) -> None:
        super().__init__()
        self.input_layernorm = ResidualNorm(cfg.hidden_size, cfg.rms_norm_eps, tp)
        self.attention = Attention(cfg, tp)
        self.post_attention_layernorm = ResidualNorm(cfg.hidden_size, cfg.rms_norm_eps, tp)
        self.mlp = DenseMLP(cfg, tp) if index < cfg.first_k_dense_replace else SparseMoE(cfg, tp)

    def forward(
        self, x: Tensor, share: Tensor | ExpertRows | None, rotation: Rotation, cache: LayerCache, batch: Batch
    ) -> tuple[Tensor, Tensor | ExpertRows]:
        """Residual stream [T, D] and this rank's share of what is yet to be added to it -> the same, a layer on."""
        x, normed = self.input_layernorm(x, share)
        x, normed = self.post_attention_layernorm(x, self.attention(normed, rotation, cache, batch))
        return x, self.mlp(normed, batch)


class BailingMoe(nn.Module):
    """Embeddings to normed hidden states, and those to logits."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.word_embeddings = VocabParallelEmbedding(cfg.vocab_size, cfg.hidden_size, tp)
        self.rotary_emb = VideoRope(cfg)
        self.layers = nn.ModuleList(DecoderLayer(cfg, i, tp) for i in range(cfg.num_hidden_layers))
        self._num_layers_run: int | None = None
        self.norm = ResidualNorm(cfg.hidden_size, cfg.rms_norm_eps, tp)
        self.lm_head = ParallelHead(cfg.vocab_size, cfg.hidden_size, tp)

    def forward(self, embeddings: Tensor, batch: Batch, caches: Sequence[LayerCache]) -> Tensor:
        """[T, D] -> normed hidden states [T, D]; writes every layer's keys and values into its cache."""
        rotation = self.rotary_emb(batch.positions, embeddings.dtype)
        x, share = embeddings, None
        for layer, cache in islice(zip(self.layers, caches, strict=True), self._num_layers_run):
            x, share = layer(x, share, rotation, cache, batch)
        return self.norm(x, share)[1]

    @contextmanager
    def of_each_kind(self) -> Iterator[None]:
        """Only the first layer of each kind runs while the context is open: what others launch is the same."""
        self._num_layers_run = 1 + sum(isinstance(layer.mlp, DenseMLP) for layer in self.layers)
        try:
            yield
        finally:
            self._num_layers_run = None
