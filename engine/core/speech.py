"""What the server asks the talker for, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SpeechFinish(StrEnum):
    """Why speech ended: all was said, the limit on steps was reached, or it cannot be spoken."""

    STOP = "stop"
    LENGTH = "length"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ReferenceClip:
    """Someone speaking: float32 little-endian mono samples at the talker's rate and at 16 kHz, and what is said.

    `digest` identifies the clip. Without a transcript (None) its latents still come before the speech.
    """

    samples: bytes
    samples_16k: bytes
    digest: bytes
    transcript: str | None = None


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One utterance; its text follows in pieces.

    `voice` is a preset's name, None for the default. `instructions` say how to speak, in words or as a JSON object of
    caption fields. `speaker` is a speaker vector in place of the voice's own, `clip` stands in place of a voice.
    `max_steps` bounds the talker's steps over all segments. `temperature` above 0 adds noise on the way to each patch.
    """

    id: int
    seed: int = 0
    voice: str | None = None
    instructions: str | None = None
    speaker: tuple[float, ...] = ()
    clip: ReferenceClip | None = None
    max_steps: int | None = None
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeechOutput:
    """What one step adds: `pcm` is 16-bit little-endian mono, possibly empty.

    `num_steps` are talker steps and `num_prompt_tokens` tokens of the text that came with this output. `finish` is set
    on the last one, with `error` for the client if it was refused.
    """

    request_id: int
    pcm: bytes = b""
    num_steps: int = 0
    num_prompt_tokens: int = 0
    finish: SpeechFinish | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SpeechStats:
    """Gauges and counters of the speech process. `num_running` have a slot, `num_waiting` have text and none;
    utterances that wait for text are in neither. All of them are `num_open`."""

    num_open: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_slots: int = 0
    num_free_slots: int = 0
    steps: int = 0
    samples: int = 0
