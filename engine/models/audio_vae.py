"""The audio VAE: waveform to latents and back; 12.5 latents a second in the release."""

from __future__ import annotations

from torch import nn

from engine.models.vae_decoder import VAEDecoder
from engine.models.vae_encoder import EncoderDepth, VAEEncoder
from engine.talker_config import AudioVAEConfig


class AudioVAE(nn.Module):
    """Encoder (reference clips only) and decoder."""

    def __init__(self, cfg: AudioVAEConfig, depth: EncoderDepth = "released") -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = VAEEncoder(cfg, depth)
        self.decoder = VAEDecoder(cfg)
