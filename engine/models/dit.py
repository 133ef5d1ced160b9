"""Bidirectional transformer blocks over short latent sequences, and the diffusion transformer made of them.

After Peebles and Xie (2023) as the release simplifies it: no adaptive norm; time and condition are one token in front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.pair_rope import rotate_pairs
from engine.layers.norm import RMSNorm
from engine.layers.rope import Rotation, inverse_frequencies
from engine.models.joined import Joined
from engine.models.storage import add_table
from engine.talker_config import DiTConfig

EPS = 1e-6
ROPE_THETA = 10000.0
TIME_WIDTH = 256
TIME_SCALE = 1000.0


class Attention(nn.Module):
    """Attention of all to all, without mask or norm of the heads."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        self.to_q = nn.Linear(cfg.hidden_size, cfg.hidden_size)
        self.to_k = nn.Linear(cfg.hidden_size, cfg.hidden_size)
        self.to_v = nn.Linear(cfg.hidden_size, cfg.hidden_size)
        self.to_out = nn.Sequential(nn.Linear(cfg.hidden_size, cfg.hidden_size))
        self.qkv = Joined((self.to_q, self.to_k, self.to_v))

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        heads = self.qkv(x).unflatten(2, (3, -1, self.head_dim))  # [B, S, 3, H, C]
        q, k = rotate_pairs(heads[:, :, :2].flatten(2, 3), rotation.cos, rotation.sin).chunk(2, dim=2)
        v = heads[:, :, 2]
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.to_out(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with GELU between; the nesting gives them their released numbers."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        width = int(cfg.hidden_size * cfg.mlp_ratio)
        first = nn.Sequential(nn.Linear(cfg.hidden_size, width), nn.GELU(approximate="tanh"))
        self.ff = nn.Sequential(first, nn.Identity(), nn.Linear(width, cfg.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return self.ff(x)


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residuals."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(cfg.hidden_size, EPS)
        self.attn = Attention(cfg)
        self.norm2 = RMSNorm(cfg.hidden_size, EPS)
        self.mlp = FeedForward(cfg)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x, normed = self.norm2.add(x, self.attn(self.norm1(x), rotation))
        return x + self.mlp(normed)


class FinalLayer(nn.Module):
    """Norm and projection."""

    def __init__(self, cfg: DiTConfig, out_features: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(cfg.hidden_size, EPS)
        self.linear = nn.Linear(cfg.hidden_size, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, out_features]."""
        return self.linear(self.norm_final(x))


class PositionTable(nn.Module):
    """cos and sin of positions 0 .. length - 1, float32 whatever the model's dtype."""

    def __init__(self, head_dim: int, length: int) -> None:
        super().__init__()
        self.angles: Tensor
        self.cos: Tensor
        self.sin: Tensor
        add_table(self, "angles", lambda: torch.arange(length)[:, None] * inverse_frequencies(head_dim, ROPE_THETA))
        add_table(self, "cos", lambda: self.angles.cos())
        add_table(self, "sin", lambda: self.angles.sin())

    def forward(self) -> Rotation:
        """[length, C / 2] each."""
        return Rotation(self.cos, self.sin)


def _time_frequencies() -> Tensor:
    """From 1 down to 1 / 10000, float32 [128].

    Exponents are float32 as released; the exponential is rounded from float64, because vectorised float32 ones differ
    in the last bit from CPU to CPU, which a time of 1000 turns into 6e-5.
    """
    half = TIME_WIDTH // 2
    exponents = -math.log(10000.0) / (half - 1) * torch.arange(half).float()
    return exponents.double().exp().float()


class TimestepEmbedder(nn.Module):
    """Sine features of the time through a small MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        add_table(self, "frequencies", _time_frequencies)
        self.time_mlp = nn.Sequential(
            nn.Linear(TIME_WIDTH, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: Tensor) -> Tensor:
        """float32 [n], 0 noise and 1 data -> [n, D]."""
        dtype = next(self.time_mlp.parameters()).dtype
        return self.time_mlp(self.features(TIME_SCALE * t).to(dtype))

    def features(self, scaled: Tensor) -> Tensor:
        """Times in thousandths [n] -> float32 [n, 256], sines first."""
        angles = scaled.float()[:, None] * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class ConditionEmbedder(nn.Module):
    """The language model's state as a token of the transformer; a zero state still gives the bias."""

    def __init__(self, cond_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.cond_embedder = nn.Linear(cond_dim, hidden_size)

    def forward(self, cond: Tensor) -> Tensor:
        """[B, 1, D_llm] -> [B, 1, D]."""
        return self.cond_embedder(cond)


@dataclass(frozen=True, slots=True)
class Context:
    """What stays the same over all times: embedded condition [B, 1, D] and history [B, H, D]."""

    cond: Tensor
    history: Tensor


class DiT(nn.Module):
    """Velocity of a noisy patch, given time, condition and the latents before it.

    History and patch share `x_embedder`; nothing tells them apart but their position.
    """

    def __init__(self, cfg: DiTConfig, cond_dim: int, history_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.t_embedder = TimestepEmbedder(cfg.hidden_size)
        self.c_embedder = ConditionEmbedder(cond_dim, cfg.hidden_size)
        self.x_embedder = nn.Linear(cfg.in_channels, cfg.hidden_size)
        self.table = PositionTable(cfg.head_dim, 1 + history_size + patch_size)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
        self.final_layer = FinalLayer(cfg, cfg.in_channels)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, history: Tensor) -> Tensor:
        """Patch [B, P, M], times float32 [B], condition [B, 1, D_llm], history [B, H, M] -> velocity [B, P, M]."""
        return self.velocity(x, self.t_embedder(t)[:, None], self.context(cond, history))

    def context(self, cond: Tensor, history: Tensor) -> Context:
        """Embed what a solver would otherwise embed at every time."""
        return Context(self.c_embedder(cond), self.x_embedder(history.to(self.x_embedder.weight.dtype)))

    def velocity(self, x: Tensor, time: Tensor, context: Context) -> Tensor:
        """Patch [B, P, M] at the embedded time [B or 1, 1, D] -> velocity [B, P, M] in the model dtype."""
        noisy = self.x_embedder(x.to(self.x_embedder.weight.dtype))
        sequence = torch.cat((time + context.cond, context.history, noisy), dim=1)
        rotation = self.table()
        for block in self.blocks:
            sequence = block(sequence, rotation)
        return self.final_layer(sequence[:, -self.patch_size :])
