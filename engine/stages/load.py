"""The speech part of a checkpoint, ready to run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.models.audio_vae import AudioVAE
from engine.models.joined import join_projections
from engine.models.storage import allocate
from engine.models.talker import Talker
from engine.models.vae_encoder import EncoderDepth, num_encoder_layers
from engine.talker_config import SpeechConfig, load_speech_config
from engine.weights.speech_load import load_talker, load_vae, stored_dtype

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeechModel:
    """Talker and audio VAE on one device; `encoder_depth` says how many encoder layers run."""

    config: SpeechConfig
    talker: Talker
    vae: AudioVAE
    encoder_depth: EncoderDepth

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return self.talker.stop_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products; solver state, rotary tables and inverse transform are float32."""
        return self.talker.stop_head.weight.dtype


def load_speech(
    folder: Path, device: torch.device, dtype: torch.dtype | None = None, encoder_depth: EncoderDepth = "released"
) -> SpeechModel:
    """Load talker and VAE from the talker's directory; `dtype` None keeps what the talker is stored in.

    Raises:
        ConfigError: a configuration file is missing or cannot be wired.
        WeightError: tensors are missing or do not fit.
    """
    config = load_speech_config(folder)
    dtype = dtype or stored_dtype(folder)
    with torch.device("meta"):
        talker, vae = Talker(config.talker), AudioVAE(config.vae, encoder_depth)
    for model in (talker, vae):
        allocate(model, device, dtype)
    load_talker(talker, folder)
    stored, run = config.vae.encoder.num_hidden_layers, num_encoder_layers(config.vae, encoder_depth)
    load_vae(vae, folder, unused_layers=range(run, stored))
    for model in (talker, vae):
        join_projections(model)
    log.info("loaded the talker of %s; its VAE runs %d of %d encoder layers", folder, run, stored)
    return SpeechModel(config, talker.eval(), vae.eval(), encoder_depth)
