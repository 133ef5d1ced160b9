"""The preset voices: those of a checkpoint (`voice_name.json` and the clips it names), and a folder of one's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError, InvalidRequest
from engine.inputs.audio_file import read_audio
from engine.inputs.resample import resample
from engine.stages.fbank import RATE_HZ
from engine.stages.load import SpeechModel
from engine.stages.speaker_encoder import SpeakerEncoder
from engine.stages.voice import Voice, make_voice
from engine.talker_config import SPEAKER_WIDTH

log = logging.getLogger(__name__)

DEFAULT_VOICE = "DB30"  # what the released program speaks chat answers with
INDEX_FILE = "voice_name.json"


@dataclass(frozen=True, slots=True)
class Preset:
    """A clip, what is said in it, and who speaks, where that is stored as 192 numbers."""

    clip: Path
    transcript: str
    speaker: tuple[float, ...] = ()


def load_voices(
    model: SpeechModel, folder: Path, encoder: SpeakerEncoder | None = None, own: Path | None = None
) -> dict[str, Voice]:
    """Presets in `data/` in the talker's directory or beside it, then those in `own`, encoded.

    A preset of the checkpoint that is not complete is left out with a warning; one in `own` must be in order.

    Raises:
        ConfigError: an index is no valid JSON, or a preset in `own` cannot be used.
    """
    voices: dict[str, Voice] = {}
    for name, preset in _released_presets(folder).items():
        try:
            voices[name] = encode_preset(model, preset, encoder)
        except InvalidRequest as error:
            log.warning("voice %s is left out: %s: %s", name, preset.clip, error.message)
    for name, preset in ({} if own is None else find_presets(own)).items():
        try:
            voices[name] = encode_preset(model, preset, encoder)
        except InvalidRequest as error:
            raise ConfigError(f"voice {name}: {preset.clip}: {error.message}") from None
    log.info("voices: %s", ", ".join(voices) or "none; it speaks with no voice given")
    return voices


def find_presets(folder: Path) -> dict[str, Preset]:
    """What `folder` holds: `voice_name.json` with clips, or NAME.wav, NAME.txt and, if wanted, NAME.json each.

    Raises:
        ConfigError: it is no directory, or a preset lacks something.
    """
    if not folder.is_dir():
        raise ConfigError(f"--voices {folder} is no directory")
    found, lacking = dict(_pairs(folder)), []
    if (folder / INDEX_FILE).is_file():
        indexed = _indexed(folder)
        lacking = [name for name, preset in indexed.items() if preset is None]
        found |= {name: preset for name, preset in indexed.items() if preset is not None}
    if lacking:
        raise ConfigError(f"{folder / INDEX_FILE}: clip or prompt_text is missing of {', '.join(lacking)}")
    if not found:
        raise ConfigError(f"--voices {folder} has no voice: put NAME.wav and NAME.txt (what is said in it) there")
    return found


def _pairs(folder: Path) -> Iterator[tuple[str, Preset]]:
    for text in sorted(folder.glob("*.txt")):
        clips = [clip for clip in sorted(folder.glob(f"{text.stem}.*")) if clip.suffix in (".wav", ".flac")]
        if not clips:
            raise ConfigError(f"{text}: there is no {text.stem}.wav beside it")
        vector = text.with_suffix(".json")
        stored = _read_json(vector) if vector.is_file() else None
        transcript = text.read_text(encoding="utf-8").strip()
        yield text.stem, Preset(clips[0], transcript, _vector(stored, vector))


def encode_preset(model: SpeechModel, preset: Preset, encoder: SpeakerEncoder | None) -> Voice:
    """A voice from its clip, its transcript, and its speaker vector, which `encoder` hears where none is stored.

    Raises:
        InvalidRequest: the file cannot be decoded.
    """
    samples, rate_hz = read_audio(preset.clip.read_bytes(), "wav")
    vectors = torch.tensor([preset.speaker]) if preset.speaker else None
    if vectors is None and encoder is not None:
        vectors = torch.from_numpy(encoder(resample(samples, rate_hz, RATE_HZ)))[None]
    clip = torch.from_numpy(resample(samples, rate_hz, model.config.vae.sample_rate))
    return make_voice(model, vectors, clip, preset.transcript)


def _released_presets(folder: Path) -> dict[str, Preset]:
    for data in released_folders(folder):
        presets = _indexed(data)
        for name in [name for name, preset in presets.items() if preset is None]:
            log.warning("voice %s is left out: its clip or its prompt_text is missing in %s", name, data)
        return {name: preset for name, preset in presets.items() if preset is not None}
    return {}


def released_folders(folder: Path) -> Iterator[Path]:
    """Where a checkpoint keeps presets, in or beside the talker's directory."""
    for data in (folder / "data", folder.parent / "data"):
        if (data / INDEX_FILE).is_file():
            yield data


def _indexed(data: Path) -> dict[str, Preset | None]:
    """Presets by name; None where one is not complete."""
    file = data / INDEX_FILE
    tree = _read_json(file)
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: holds no JSON object; fetch the file again")
    return {name: _preset(data, entry, file) for name, entry in tree.items()}


def _preset(data: Path, entry: object, file: Path) -> Preset | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("prompt_text"), str):
        return None
    clip = _find_clip(data, entry)
    return None if clip is None else Preset(clip, entry["prompt_text"], _vector(entry.get("speaker_embedding"), file))


def _find_clip(data: Path, entry: Mapping[str, Any]) -> Path | None:
    """The clip that an entry names; its path is written from the top of the source tree, so only the end counts."""
    names = [value for value in entry.values() if isinstance(value, str) and value.endswith(".wav")]
    found = (clip for name in names for clip in data.rglob(Path(name).name))
    return next(found, None)


def _vector(stored: object, file: Path) -> tuple[float, ...]:
    if stored is None:
        return ()
    numbers = [value for value in stored if isinstance(value, (int, float))] if isinstance(stored, list) else []
    if len(numbers) != SPEAKER_WIDTH:
        raise ConfigError(f"{file}: a speaker embedding is a list of {SPEAKER_WIDTH} numbers")
    return tuple(map(float, numbers))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); fetch the file again") from None
