"""Grouped-query attention of the thinker over the paged cache."""

from __future__ import annotations

from torch import Tensor, nn

from engine.kernels.kv_store import kv_store
from engine.kernels.paged_attention import paged_attention
from engine.layers.batch import Batch, LayerCache
from engine.layers.linear import QKVParallelLinear, RowParallelLinear
from engine.layers.norm import RMSNorm
from engine.layers.rope import ApplyRotary, Rotation
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel


class Attention(nn.Module):
    """Follows `BailingMoeV2Attention`: packed q | k | v, per-head norm before partial rotary, no biases.

    Query heads are split across ranks; key/value heads too, or copied once there are more ranks than heads.
    """

    def __init__(self, cfg: LLMConfig, tp: TensorParallel) -> None:
        super().__init__()
        self.query_key_value = QKVParallelLinear(cfg, tp)
        self.q_norm = RMSNorm(cfg.head_dim, cfg.rms_norm_eps)
        self.k_norm = RMSNorm(cfg.head_dim, cfg.rms_norm_eps)
        self.rotary = ApplyRotary()
        width = cfg.num_attention_heads * cfg.head_dim
        self.dense = RowParallelLinear(width, cfg.hidden_size, tp, "num_attention_heads * head_dim")

    def forward(self, x: Tensor, rotation: Rotation, cache: LayerCache, batch: Batch) -> Tensor:
        """[T, D] -> [T, D]; writes this step's keys and values into `cache`."""
        q, k, v = self.query_key_value(x)
        # Normalised before rotation: the other order changes every cached key.
        q, k = self.rotary(self.q_norm(q), self.k_norm(k), rotation)
        kv_store(k, v, cache.k, cache.v, batch.slots)
        out = paged_attention(q, cache.k, cache.v, batch.layout)
        return self.dense(out.flatten(start_dim=1))
