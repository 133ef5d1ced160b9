"""The preset voices of a checkpoint: `voice_name.json` and the clips it names."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError
from engine.inputs.audio_file import read_audio
from engine.inputs.resample import resample
from engine.stages.load import SpeechModel
from engine.stages.voice import Voice, make_voice

log = logging.getLogger(__name__)

DEFAULT_VOICE = "DB30"  # what the released program speaks chat answers with
INDEX_FILE = "voice_name.json"


def load_voices(model: SpeechModel, folder: Path) -> dict[str, Voice]:
    """Presets in `data/` in the talker's directory or beside it, encoded; none where there are none.

    A preset is a clip with its transcript. The speaker vector that the released program adds comes from a model that
    is not part of this engine, and is left out.

    Raises:
        ConfigError: the index is no valid JSON.
    """
    for data in (folder / "data", folder.parent / "data"):
        if (data / INDEX_FILE).is_file():
            voices = dict(_presets(model, data))
            log.info("voices: %s (clip and transcript, without a speaker vector)", ", ".join(voices) or "none")
            return voices
    log.info("no preset voices beside %s: it speaks with no voice given", folder)
    return {}


def _presets(model: SpeechModel, data: Path) -> Iterator[tuple[str, Voice]]:
    for name, entry in _read_index(data / INDEX_FILE).items():
        clip = _find_clip(data, entry) if isinstance(entry, Mapping) else None
        if clip is None or not isinstance(entry.get("prompt_text"), str):
            log.warning("voice %s is left out: its clip or its prompt_text is missing in %s", name, data)
            continue
        yield name, encode_voice(model, clip.read_bytes(), entry["prompt_text"])


def encode_voice(model: SpeechModel, clip: bytes, transcript: str) -> Voice:
    """A voice from a WAV file and what is said in it.

    Raises:
        InvalidRequest: the file cannot be decoded.
    """
    samples, rate_hz = read_audio(clip, "wav")
    samples = resample(samples, rate_hz, model.config.vae.sample_rate)
    return make_voice(model, clip=torch.from_numpy(samples), transcript=transcript)


def _find_clip(data: Path, entry: Mapping[str, Any]) -> Path | None:
    """The clip that an entry names; its path is written from the top of the source tree, so only the end counts."""
    names = [value for value in entry.values() if isinstance(value, str) and value.endswith(".wav")]
    found = (clip for name in names for clip in data.rglob(Path(name).name))
    return next(found, None)


def _read_index(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); fetch the file again") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: holds no JSON object; fetch the file again")
    return tree
