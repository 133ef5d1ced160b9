"""The Qwen2 decoder (Qwen team, 2024): language model of the talker and backbone of the audio VAE.

It keeps nothing itself. What earlier calls left behind, and how far back a query sees, is the `Memory` it is given.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.rope import apply_rotary
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rotation, inverse_frequencies
from engine.models.joined import Joined
from engine.models.storage import add_table
from engine.talker_config import Qwen2Config


class Memory(Protocol):
    """Keys and values of earlier calls, and what the queries of this call may see of them."""

    @property
    def positions(self) -> Tensor:
        """Where this call's tokens stand, int64 [B, S]."""

    @property
    def mask(self) -> Tensor:
        """True where a query sees a key: [B or 1, 1, S, L]."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take this call's keys and values [B, K, S, C] of a layer; return all there are, [B, K, L, C]."""


class Qwen2Attention(nn.Module):
    """Grouped-query attention with biases on q, k and v only."""

    def __init__(self, cfg: Qwen2Config) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        kv_width = cfg.num_key_value_heads * cfg.head_dim
        self.q_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size)
        self.k_proj = nn.Linear(cfg.hidden_size, kv_width)
        self.v_proj = nn.Linear(cfg.hidden_size, kv_width)
        self.o_proj = nn.Linear(cfg.hidden_size, cfg.hidden_size, bias=False)
        self.num_kv_heads = cfg.num_key_value_heads
        self.qkv = Joined((self.q_proj, self.k_proj, self.v_proj))

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor, layer: int, memory: Memory) -> Tensor:
        """[B, S, D] -> [B, S, D]; `rotation` has B * S rows."""
        heads = self.qkv(x).unflatten(2, (-1, self.head_dim))
        rotated, v = heads.tensor_split((-self.num_kv_heads,), dim=2)
        q, k = _rotate(rotated, rotation).tensor_split((-self.num_kv_heads,), dim=2)
        keys, values = memory.extend(layer, k.transpose(1, 2), v.transpose(1, 2))
        return self.o_proj(grouped_attention(q, keys, values, mask))


class Qwen2MLP(nn.Module):
    """`down(silu(gate x) * up x)`."""

    def __init__(self, cfg: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.up_proj = nn.Linear(cfg.hidden_size, cfg.intermediate_size, bias=False)
        self.down_proj = nn.Linear(cfg.intermediate_size, cfg.hidden_size, bias=False)
        self.gate_up = Joined((self.gate_proj, self.up_proj))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Qwen2Layer(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, cfg: Qwen2Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.self_attn = Qwen2Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        self.mlp = Qwen2MLP(cfg)

    def forward(self, x: Tensor, rotation: Rotation, mask: Tensor, layer: int, memory: Memory) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        attended = self.self_attn(self.input_layernorm(x), rotation, mask, layer, memory)
        x, normed = self.post_attention_layernorm.add(x, attended)
        return x + self.mlp(normed)


class Qwen2Model(nn.Module):
    """Layers and final norm, embeddings in and hidden states out; `num_layers` may leave out the last ones."""

    def __init__(self, cfg: Qwen2Config, num_layers: int | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        count = cfg.num_hidden_layers if num_layers is None else num_layers
        self.layers = nn.ModuleList(Qwen2Layer(cfg) for _ in range(count))
        self.norm = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        # Float32 whatever the model's dtype: in bfloat16 the angles are off by radians after a few hundred tokens.
        self.inv_freq: Tensor
        add_table(self, "inv_freq", lambda: inverse_frequencies(cfg.head_dim, cfg.rope_theta))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """[B, S, D] -> normed hidden states [B, S, D]."""
        rotation, mask = self._rotation(memory.positions, x.dtype), memory.mask
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, mask, index, memory)
        return self.norm(x)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        phase = positions.flatten()[:, None].float() * self.inv_freq  # [B * S, C / 2]
        return Rotation(phase.cos().to(dtype), phase.sin().to(dtype))


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Half-split rotation of [B, S, H, C]."""
    return apply_rotary(x.flatten(0, 1), rotation.cos, rotation.sin).view_as(x)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [B, S, H, C] over k, v [B, K, L, C] where `mask` [B or 1, 1, S, L] is true -> [B, S, H * C].

    The queries that share a key head are laid along the sequence, so that no key is copied for them.
    """
    num_rows, length = q.shape[:2]
    group = q.shape[2] // k.shape[1]
    stacked = q.unflatten(2, (-1, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, K, group * S, C]
    out = F.scaled_dot_product_attention(stacked, k, v, attn_mask=mask.repeat(1, 1, group, 1))
    out = out.unflatten(2, (group, length)).permute(0, 3, 1, 2, 4)  # [B, S, K, group, C]
    return out.reshape(num_rows, length, -1)
