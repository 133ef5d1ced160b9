"""Who speaks and how, from what a request names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from engine.config import SPEECH_SLACK
from engine.core.speech import ReferenceClip, SpeechRequest
from engine.inputs.instructions import caption_fields
from engine.stages.captions import STYLE, caption
from engine.stages.load import SpeechModel
from engine.stages.prompt import TextEncoder
from engine.stages.speak import Speaker
from engine.stages.speaker_encoder import SpeakerEncoder
from engine.stages.talker_batch import Guidance
from engine.stages.voice import ZERO_SPEAKER, Voice, make_voice
from engine.stages.voices import DEFAULT_VOICE

_NUM_COPIED = 32  # voices of reference clips that are kept: clients send the same clip with every request


@dataclass(frozen=True, slots=True)
class Cast:
    """The voices that there are, and what makes a speaker of one; `speaker_encoder` hears who speaks in a clip.

    `slack` bounds the length of a segment (see `patch_limit`).
    """

    model: SpeechModel
    encoder: TextEncoder
    voices: Mapping[str, Voice]
    speaker_encoder: SpeakerEncoder | None = None
    slack: float = SPEECH_SLACK
    _copied: OrderedDict[tuple[object, ...], Voice] = field(default_factory=OrderedDict)

    @property
    def default_voice(self) -> str | None:
        """What speaks when no voice is named; None where there is no preset."""
        return DEFAULT_VOICE if DEFAULT_VOICE in self.voices else next(iter(self.voices), None)

    def speaker(self, request: SpeechRequest) -> Speaker:
        """The speaker of a request.

        Raises:
            KeyError: there is no such voice; the server has checked that.
        """
        instruction = None if request.instructions is None else read_instructions(request.instructions)
        voice = self._voice(request, styled=instruction is not None)
        guidance = Guidance(self.model.config.talker.cfg_strength, temperature=request.temperature)
        return Speaker(self.model, self.encoder, voice, instruction, guidance, request.seed, slack=self.slack)

    def _voice(self, request: SpeechRequest, *, styled: bool) -> Voice:
        """A caption goes with a clip without transcript, or with the zero speaker where no voice is named."""
        if request.clip is not None:
            return self._copy(request.clip, request.speaker, styled=styled)
        if request.speaker:
            return make_voice(self.model, torch.tensor([request.speaker]))
        name = request.voice or (None if styled else self.default_voice)
        if name is None:
            return make_voice(self.model, ZERO_SPEAKER) if styled else Voice()
        voice = self.voices[name]
        return replace(voice, prompt_rows=None, prompt_text=None) if styled else voice

    def _copy(self, clip: ReferenceClip, speaker: tuple[float, ...], *, styled: bool) -> Voice:
        """The voice in a clip; a caption leaves its transcript out."""
        transcript = None if styled else clip.transcript
        key = (clip.digest, transcript, speaker)
        voice = self._copied.pop(key, None) or self._hear(clip, speaker, transcript)
        self._copied[key] = voice
        if len(self._copied) > _NUM_COPIED:
            self._copied.popitem(last=False)
        return voice

    def _hear(self, clip: ReferenceClip, speaker: tuple[float, ...], transcript: str | None) -> Voice:
        vectors = torch.tensor([speaker]) if speaker else None
        if vectors is None and self.speaker_encoder is not None:
            vectors = torch.from_numpy(self.speaker_encoder(np.frombuffer(clip.samples_16k, "<f4")))[None]
        samples = torch.frombuffer(bytearray(clip.samples), dtype=torch.float32)
        return make_voice(self.model, vectors, samples, transcript)


def read_instructions(text: str) -> str:
    """The caption: a JSON object is its fields, anything else describes the style."""
    fields = caption_fields(text)
    return caption({STYLE: text} if fields is None else fields)
