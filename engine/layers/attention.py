"""Grouped-query attention of the thinker over the paged cache."""

from __future__ import annotations

from torch import Tensor, nn

from engine.kernels.heads_attention import heads_attention, takes_heads
from engine.kernels.paged_attention import paged_attention
from engine.kernels.qk_norm_rope import HeadNorms, qk_norm_rope
from engine.layers.batch import Batch, LayerCache
from engine.layers.linear import QKVParallelLinear, RowParallelLinear
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rotation
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
        self.norm_rotate_store = NormRotateStore()
        width = cfg.num_attention_heads * cfg.head_dim
        self.dense = RowParallelLinear(width, cfg.hidden_size, tp, "num_attention_heads * head_dim")

    def forward(self, x: Tensor, rotation: Rotation, cache: LayerCache, batch: Batch) -> Tensor:
        """[T, D] -> [T, D], a partial sum over ranks; writes this step's keys and values into `cache`."""
        q, k, v = self.query_key_value(x)
        norms = HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)
        if takes_heads(q, batch.layout):
            tables, lens = batch.layout.block_tables, batch.layout.seq_lens
            pairs = (rotation.cos, rotation.sin), (cache.k, cache.v)
            out = heads_attention(q, k, v, norms, *pairs, batch.slots, tables, lens, capacity=batch.layout.capacity)
        else:
            q = self.norm_rotate_store(q, k, v, norms, rotation, cache, batch.slots)
            out = paged_attention(q, cache.k, cache.v, batch.layout)
        return self.dense(out.flatten(start_dim=1))


class NormRotateStore(nn.Module):
    """The head norms, the rotation and the cache write as a module, so that a forward hook can observe them.

    Steps that hide them in attention (`Paths.heads_in_attention`) are not observed.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms, rotation: Rotation, cache: LayerCache, slots: Tensor
    ) -> Tensor:
        """[T, H, C], [T, K, C] twice -> queries [T, H, C]; keys and values go to their slots of `cache`."""
        return qk_norm_rope(q, k, v, norms, (rotation.cos, rotation.sin), (cache.k, cache.v), slots)
