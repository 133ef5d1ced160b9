"""Patches of latents to samples, segment by segment: VAE stream, then silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.models.vae_decoder import Backbone, DecoderState, LatentChunk
from engine.stages.load import SpeechModel
from engine.stages.silence import SilenceHold


@dataclass(slots=True)
class SegmentAudio:
    """Where one segment's audio stands."""

    state: DecoderState
    silence: SilenceHold

    @classmethod
    def start(cls, model: SpeechModel) -> SegmentAudio:
        """Before the first patch."""
        return cls(model.vae.decoder.start(), SilenceHold.at(model.config.vae.sample_rate))


@dataclass(frozen=True, slots=True)
class Rendering:
    """The next latents [P, latent_dim] of one segment; `last` ends it, also where a limit cut it short."""

    audio: SegmentAudio
    latents: Tensor
    last: bool


@torch.inference_mode()
def render(
    model: SpeechModel, renderings: Sequence[Rendering], backbone: Backbone | None = None
) -> list[npt.NDArray[np.float32]]:
    """The samples that each segment can give out now; its decoder runs one patch behind.

    `backbone` is a recorded one in place of the decoder's own.
    """
    chunks = [LatentChunk(r.latents, r.audio.state, r.last) for r in renderings]
    streamed = model.vae.decoder.stream(chunks, backbone)
    parts = torch.cat([samples for samples, _ in streamed]).cpu().numpy()  # one copy, one wait
    ends = np.cumsum([len(samples) for samples, _ in streamed])[:-1]
    outputs = []
    for rendering, (_, state), samples in zip(renderings, streamed, np.split(parts, ends), strict=True):
        rendering.audio.state = state
        outputs.append(rendering.audio.silence.push(samples, last=rendering.last))
    return outputs
