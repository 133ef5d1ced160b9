"""The Ling-2.0 decoder that Ming calls its thinker; follows `BailingMoeV2Model` of the released code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from engine.layers.attention import Attention
from engine.layers.batch import Batch, LayerCache
from engine.layers.embedding import ParallelHead, VocabParallelEmbedding
from engine.layers.moe import DenseMLP, SparseMoE
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rotation, VideoRope
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward with residuals."""

    def __init__(self, cfg: LLMConfig, index: int, tp: TensorParallel) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.attention = Attention(cfg, tp)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.mlp = DenseMLP(cfg, tp) if index < cfg.first_k_dense_replace else SparseMoE(cfg, tp)

    def forward(self, x: Tensor, rotation: Rotation, cache: LayerCache, batch: Batch) -> Tensor:
        """[T, D] -> [T, D]."""
        attended = self.attention(self.input_layernorm(x), rotation, cache, batch)
        x, normed = self.post_attention_layernorm.add(x, attended)
        return x + self.mlp(normed, batch)


class BailingMoe(nn.Module):
    """Embeddings to normed hidden states, and those to logits."""

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.word_embeddings = VocabParallelEmbedding(cfg.vocab_size, cfg.hidden_size, tp)
        self.rotary_emb = VideoRope(cfg)
        self.layers = nn.ModuleList(DecoderLayer(cfg, i, tp) for i in range(cfg.num_hidden_layers))
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.lm_head = ParallelHead(cfg.vocab_size, cfg.hidden_size, tp)

    def forward(self, embeddings: Tensor, batch: Batch, caches: Sequence[LayerCache]) -> Tensor:
        """[T, D] -> normed hidden states [T, D]; writes every layer's keys and values into its cache."""
        rotation = self.rotary_emb(batch.positions, embeddings.dtype)
        x = embeddings
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, rotation, cache, batch)
        return self.norm(x)
