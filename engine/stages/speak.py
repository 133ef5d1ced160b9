"""Speaking segments one after another, without a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from engine.config import SPEECH_SLACK
from engine.stages.load import SpeechModel
from engine.stages.noise import SeededNoise
from engine.stages.prompt import SPEECH, PromptText, TextEncoder, build_prompt
from engine.stages.talker_batch import Guidance, Segment, TalkerBatch, patch_limit
from engine.stages.voice import Voice
from engine.stages.waveform import Rendering, SegmentAudio, render


class Speaker:
    """One voice and manner for all the segments of a request."""

    def __init__(
        self,
        model: SpeechModel,
        encoder: TextEncoder,
        voice: Voice | None = None,
        instruction: str | None = None,
        guidance: Guidance | None = None,
        seed: int = 0,
        task: str = SPEECH,
        slack: float = SPEECH_SLACK,
    ) -> None:
        self.model, self.encoder, self.seed, self.slack = model, encoder, seed, slack
        self.voice = voice or Voice()
        self.guidance = guidance or Guidance(cfg=model.config.talker.cfg_strength)
        self.prompt = PromptText(
            task=task,
            num_speakers=self.voice.num_speakers,
            prompt_text=self.voice.prompt_text,
            num_prompt_patches=self.voice.num_prompt_patches,
            instruction=instruction,
        )

    @torch.inference_mode()
    def segment(self, text: str, index: int = 0) -> Segment:
        """What the talker needs for the segment with number `index` of the request."""
        voice, config = self.voice, self.model.config
        built = build_prompt(self.encoder, text, self.prompt)
        replaced = []
        if voice.speakers is not None:
            replaced.append((built.speaker_rows, voice.speakers))
        if voice.prompt_rows is not None:
            replaced.append((built.audio_rows, voice.prompt_rows))
        ids = torch.tensor(built.ids, device=self.model.device)
        return Segment(
            prompt=self.model.talker.embed(ids, replaced),
            noise=SeededNoise(config.talker, self.seed, index),
            guidance=self.guidance,
            latents=voice.latents,
            max_patches=patch_limit(len(text), config.patch_s, self.slack),
        )


def speak(speaker: Speaker, segments: Iterable[str]) -> Iterator[npt.NDArray[np.float32]]:
    """Samples at the VAE's rate, patch by patch; segments follow each other without a pause.

    Raises:
        InvalidRequest: the prompt of a segment is too long.
    """
    batch = TalkerBatch(speaker.model.talker, num_slots=1)
    for index, text in enumerate(segments):
        batch.admit(speaker.segment(text, index))
        audio = SegmentAudio.start(speaker.model)
        while not batch.num_free:
            (patch,) = batch.step()
            samples = render(speaker.model, [Rendering(audio, patch.latents, patch.last)])[0]
            if len(samples):
                yield samples
