"""Presets from a folder of one's own, and voices copied from a clip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from engine.core.speech import ReferenceClip, SpeechRequest
from engine.errors import ConfigError
from engine.stages.generated import generate_model, tiny_config
from engine.stages.manner import Cast
from engine.stages.voices import find_presets, load_voices
from tests.engine.speech import byte_encoder

MODEL = generate_model(tiny_config(), torch.device("cpu"), torch.float32)
VECTOR = [0.5] * 192


def write_voice(folder: Path, name: str, vector: object = None) -> None:
    soundfile.write(folder / f"{name}.wav", 0.1 * np.sin(np.arange(8000) / 10), 16_000)
    (folder / f"{name}.txt").write_text("what is said\n", encoding="utf-8")
    if vector is not None:
        (folder / f"{name}.json").write_text(json.dumps(vector))


def test_a_folder_of_presets(tmp_path: Path) -> None:
    write_voice(tmp_path, "anna")
    write_voice(tmp_path, "ben", VECTOR)
    voices = load_voices(MODEL, tmp_path / "talker", own=tmp_path)
    assert list(voices) == ["anna", "ben"]
    assert (voices["anna"].num_speakers, voices["ben"].num_speakers) == (0, 1)
    assert (voices["anna"].prompt_text, voices["anna"].num_prompt_patches) == ("what is said", 2)  # half a second


def test_a_speaker_encoder_hears_who_has_no_vector(tmp_path: Path) -> None:
    write_voice(tmp_path, "anna")
    write_voice(tmp_path, "ben", VECTOR)
    heard: list[int] = []

    def encoder(samples: np.ndarray) -> np.ndarray:
        heard.append(len(samples))
        return np.ones(192, np.float32)

    voices = load_voices(MODEL, tmp_path / "talker", encoder, own=tmp_path)  # type: ignore[arg-type]
    assert heard == [8000]
    assert all(voice.num_speakers == 1 for voice in voices.values())


def test_a_preset_of_ones_own_must_be_in_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no directory"):
        find_presets(tmp_path / "none")
    with pytest.raises(ConfigError, match="has no voice"):
        find_presets(tmp_path)
    (tmp_path / "anna.txt").write_text("said")
    with pytest.raises(ConfigError, match=r"there is no anna\.wav"):
        find_presets(tmp_path)
    write_voice(tmp_path, "anna", [1.0, 2.0])
    with pytest.raises(ConfigError, match="list of 192 numbers"):
        find_presets(tmp_path)
    write_voice(tmp_path, "anna", VECTOR)
    (tmp_path / "anna.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(ConfigError, match=r"voice anna: .*could not be decoded"):
        load_voices(MODEL, tmp_path / "talker", own=tmp_path)


def clip(transcript: str | None = "said", seconds: float = 0.5) -> ReferenceClip:
    wave = (0.1 * np.sin(np.arange(int(44100 * seconds)) / 20)).astype("<f4")
    return ReferenceClip(wave.tobytes(), wave[::3].tobytes(), bytes(32), transcript)


def test_a_voice_is_copied_from_a_clip_once() -> None:
    cast = Cast(MODEL, byte_encoder(), {})
    request = SpeechRequest(1, clip=clip())
    first = cast.speaker(request).voice
    assert (first.num_prompt_patches, first.prompt_text, first.num_speakers) == (2, "said", 0)
    assert cast.speaker(replace(request, seed=4)).voice is first
    styled = cast.speaker(replace(request, instructions="slowly")).voice
    assert (styled.num_prompt_patches, styled.prompt_text) == (0, None)
    assert styled.latents is not None
    with_vector = cast.speaker(replace(request, speaker=tuple(VECTOR))).voice
    assert with_vector.num_speakers == 1
    silent = cast.speaker(replace(request, clip=clip(None))).voice
    assert (silent.num_prompt_patches, silent.latents is None) == (0, False)


def test_a_clip_changes_the_speech_and_a_tenth_of_a_second_is_enough() -> None:
    cast = Cast(MODEL, byte_encoder(), {})
    plain = cast.speaker(SpeechRequest(1)).segment("Hello.")
    cloned = cast.speaker(SpeechRequest(1, clip=clip(seconds=0.1))).segment("Hello.")
    assert len(cloned.prompt) == len(plain.prompt) + 1 + len("said")
    assert plain.latents is None
    assert cloned.latents is not None
    assert len(cloned.latents) == 4
