"""Voices: what a prompt takes from a speaker vector and a reference clip, computed once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.models.vae_encoder import pad_to_patches
from engine.stages.load import SpeechModel

ZERO_SPEAKER: Literal["zero"] = "zero"


@dataclass(frozen=True, slots=True)
class Voice:
    """How the talker is told who speaks.

    `speakers` [k, D] go into the prompt. `latents` float32 [M, latent_dim] of the clip, whole patches, start the
    history. Only with a transcript do its `prompt_rows` [N, D] stand in the prompt.
    """

    speakers: Tensor | None = None
    latents: Tensor | None = None
    prompt_rows: Tensor | None = None
    prompt_text: str | None = None

    @property
    def num_speakers(self) -> int:
        """Speakers that the prompt names."""
        return 0 if self.speakers is None else len(self.speakers)

    @property
    def num_prompt_patches(self) -> int:
        """Rows of the clip in the prompt."""
        return 0 if self.prompt_rows is None else len(self.prompt_rows)


@torch.inference_mode()
def make_voice(
    model: SpeechModel,
    speakers: Tensor | Literal["zero"] | None = None,
    clip: Tensor | None = None,
    transcript: str | None = None,
    noise: Tensor | None = None,
) -> Voice:
    """Encode a voice.

    Args:
        speakers: speaker vectors [k, 192], or "zero" for the row that means "no voice given".
        clip: reference samples [n], n > 0, at the VAE's rate.
        transcript: what is said in it.
        noise: standard normal [M, latent_dim] to sample the clip's latents with; without it, their mean.
    """
    rows = None if speakers is None else _speaker_rows(model, speakers)
    if clip is None:
        return Voice(rows)
    latents = encode_clip(model, clip, noise)
    if transcript is None:
        return Voice(rows, latents)
    return Voice(rows, latents, model.talker.aggregate(latents), transcript)


def encode_clip(model: SpeechModel, clip: Tensor, noise: Tensor | None = None) -> Tensor:
    """Samples [n] at the VAE's rate -> latents float32 [M, latent_dim] of whole patches."""
    padded = pad_to_patches(clip.to(model.device)[None], model.config.patch_samples)
    posterior = model.vae.encoder(padded)
    latents: Tensor = posterior.mean if noise is None else posterior.sample(noise.to(model.device))
    return latents[0]


def _speaker_rows(model: SpeechModel, speakers: Tensor | Literal["zero"]) -> Tensor:
    if isinstance(speakers, str):
        return model.talker.zero_speaker()
    return model.talker.project_speakers(speakers.to(model.device))
