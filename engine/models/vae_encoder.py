"""The audio VAE's encoder: waveform to the posterior of its latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.qwen2 import Qwen2Model
from engine.models.windowed import run_windowed
from engine.talker_config import AudioVAEConfig

AGGREGATOR_LAYERS = 4
MIN_STD = 1e-4

# The released constructor lowers the layer count of a configuration that encoder and aggregator share, and so runs
# only as many encoder layers as the aggregator has, whatever the file holds.
EncoderDepth = Literal["released", "all"]


def num_encoder_layers(cfg: AudioVAEConfig, depth: EncoderDepth) -> int:
    """Encoder layers that run, out of those that are stored."""
    stored = cfg.encoder.num_hidden_layers
    return stored if depth == "all" else min(AGGREGATOR_LAYERS, stored)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Normal distribution of the latents, float32 [B, T, latent_dim] each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, params: Tensor) -> Posterior:
        """Split the encoder's output [B, T, 2 * latent_dim] into mean and raw scale."""
        mean, raw = params.float().chunk(2, dim=-1)
        return cls(mean, F.softplus(raw) + MIN_STD)

    def sample(self, noise: Tensor) -> Tensor:
        """Latents for standard normal `noise` of the same shape."""
        return self.mean + self.std * noise


def pad_to_patches(waveform: Tensor, patch_samples: int) -> Tensor:
    """Zeros in front of [B, N], up to a whole number of patches: the clip ends where the speech to come begins."""
    return F.pad(waveform, (-waveform.shape[-1] % patch_samples, 0))


class VAEEncoder(nn.Module):
    """The tensors under `encoder.`: frames, a windowed backbone, and a second one that gathers frames into latents."""

    def __init__(self, cfg: AudioVAEConfig, depth: EncoderDepth) -> None:
        super().__init__()
        hidden = cfg.encoder.hidden_size
        self.cfg = cfg
        self.fc1 = nn.Linear(cfg.hop_size, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, hidden)
        self.encoder = Qwen2Model(cfg.encoder, num_encoder_layers(cfg, depth))
        self.cls_embed = nn.Parameter(torch.empty(1, 1, hidden))
        self.aggregator = Qwen2Model(cfg.encoder, AGGREGATOR_LAYERS)
        self.fc3 = nn.Linear(hidden, 2 * cfg.latent_dim)

    def forward(self, waveform: Tensor) -> Posterior:
        """Mono samples [B, N] -> posterior of ceil(N / latent_samples) latents."""
        return Posterior.of(self.posterior_params(self.frames(waveform)))

    def frames(self, waveform: Tensor) -> Tensor:
        """[B, N] -> [B, F, hop_size], the last frame filled with zeros."""
        padded = F.pad(waveform, (0, -waveform.shape[-1] % self.cfg.hop_size))
        return padded.unflatten(1, (-1, self.cfg.hop_size))

    def posterior_params(self, frames: Tensor) -> Tensor:
        """[B, F, hop_size] -> mean and raw scale [B, T, 2 * latent_dim]."""
        hidden = run_windowed(self.encoder, self.fc2(self.fc1(frames.to(self.fc1.weight.dtype))))
        return self.fc3(self._gather(hidden))

    def _gather(self, hidden: Tensor) -> Tensor:
        """[B, F, D] -> [B, T, D]: behind each group of frames stands a learned token that has seen them."""
        size = self.cfg.patch_size
        groups = F.pad(hidden, (0, 0, 0, -hidden.shape[1] % size)).unflatten(1, (-1, size))
        token = self.cls_embed.expand(*groups.shape[:2], -1)[:, :, None]
        sequence = torch.cat((groups, token), dim=2).flatten(1, 2)
        return run_windowed(self.aggregator, sequence)[:, size :: size + 1]
