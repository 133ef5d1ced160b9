"""The talker's prompt: token ids, and the rows in which embeddings are put in their place.

Every piece is encoded on its own and the ids are joined: joining the strings first would merge other tokens. Markers
are ids; text of a user is plain text whatever it spells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from engine.errors import ConfigError

SPEECH = "Please generate speech based on the following description.\n"
SOUND_EVENTS = "Please generate audio events based on given text.\n"
MUSIC = "Please generate music based on the following description.\n"

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_SPEAKER = "<|vision_start|>"
_SPEAKER_SLOT = "<|vision_pad|>"
_SPEAKER_END = "<|vision_end|>"
_AUDIO = "<audio>"
_AUDIO_SLOT = "<audioPatch>"
_TURN_END = "<|im_end|>"
MARKERS = ("<|im_start|>", _TURN_END, _SPEAKER, _SPEAKER_SLOT, _SPEAKER_END, _AUDIO, _AUDIO_SLOT)

_MUSIC_FIELDS = ("Genre: ", "Mood: ", "Instrument: ", "Theme: ", "Duration: ")


class TextEncoder(Protocol):
    """Text to token ids; `special` reads control tokens spelled in it as such."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`."""


@dataclass(frozen=True, slots=True)
class PromptText:
    """What a prompt says, besides the segment itself.

    `num_speakers` voices are given as embeddings; a reference clip adds its `prompt_text` and `num_prompt_patches`
    embeddings, both or neither; `instruction` is a caption.
    """

    task: str = SPEECH
    num_speakers: int = 0
    prompt_text: str | None = None
    num_prompt_patches: int = 0
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Token ids, and the rows that embeddings of speakers and of the reference clip overwrite."""

    ids: tuple[int, ...]
    speaker_rows: tuple[int, ...]
    audio_rows: tuple[int, ...]


def build_prompt(encoder: TextEncoder, text: str, prompt: PromptText) -> PromptIds:
    """The prompt for one segment."""
    ids: list[int] = []
    speaker_rows: list[int] = []
    audio_rows: list[int] = []
    for piece, special in pieces(text, prompt):
        rows = {_SPEAKER_SLOT: speaker_rows, _AUDIO_SLOT: audio_rows}.get(piece) if special else None
        if rows is not None:
            rows.append(len(ids))
        ids += encoder.encode(piece, special=special)
    return PromptIds(tuple(ids), tuple(speaker_rows), tuple(audio_rows))


def pieces(text: str, prompt: PromptText) -> Iterator[tuple[str, bool]]:
    """What is encoded, in order, and whether it is ours (markers count) or somebody's text."""
    yield _SYSTEM, True
    yield "<|im_start|>user\n", True
    yield prompt.task, True
    for k in range(1, prompt.num_speakers + 1):
        yield from ((f"  speaker_{k}:", True), (_SPEAKER, True), (_SPEAKER_SLOT, True), (_SPEAKER_END + "\n", True))
    if not all(name in text for name in _MUSIC_FIELDS):
        yield " Text input:\n", True
    cloned = prompt.prompt_text is not None and prompt.num_prompt_patches > 0
    if cloned:
        yield str(prompt.prompt_text), False
    yield text, False
    yield _TURN_END + "\n", True
    yield "<|im_start|>assistant\n", True
    if prompt.instruction is not None:
        yield prompt.instruction, False
        yield _TURN_END, True
    yield _AUDIO, True
    if cloned:
        yield from ((_AUDIO_SLOT, True) for _ in range(prompt.num_prompt_patches))


def check_markers(encoder: TextEncoder) -> None:
    """Make sure that the tokenizer knows every marker.

    Raises:
        ConfigError: it reads one as several tokens.
    """
    for marker in MARKERS:
        if len(encoder.encode(marker, special=True)) != 1:
            raise ConfigError(f"the talker's tokenizer has no single token {marker!r}; talker/llm/ is of another model")
