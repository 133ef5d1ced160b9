"""Who speaks and how, from what a request names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from engine.core.speech import SpeechRequest
from engine.stages.captions import STYLE, caption
from engine.stages.load import SpeechModel
from engine.stages.prompt import TextEncoder
from engine.stages.speak import Speaker
from engine.stages.voice import ZERO_SPEAKER, Voice, make_voice
from engine.stages.voices import DEFAULT_VOICE


@dataclass(frozen=True, slots=True)
class Cast:
    """The voices that there are, and what makes a speaker of one."""

    model: SpeechModel
    encoder: TextEncoder
    voices: Mapping[str, Voice]

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
        return Speaker(self.model, self.encoder, voice, instruction, seed=request.seed)

    def _voice(self, request: SpeechRequest, *, styled: bool) -> Voice:
        """A caption goes with a clip without transcript, or with the zero speaker where no voice is named."""
        if request.speaker:
            return make_voice(self.model, torch.tensor([request.speaker]))
        name = request.voice or (None if styled else self.default_voice)
        if name is None:
            return make_voice(self.model, ZERO_SPEAKER) if styled else Voice()
        voice = self.voices[name]
        return replace(voice, prompt_rows=None, prompt_text=None) if styled else voice


def read_instructions(text: str) -> str:
    """The caption: a JSON object is its fields, anything else describes the style."""
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    return caption(fields if isinstance(fields, dict) else {STYLE: text})
