"""Utterances of several requests through one batch of talkers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from engine.core.speech import SpeechFinish, SpeechOutput, SpeechRequest
from engine.stages.captions import STYLE, caption
from engine.stages.loop import SpeechLoop
from engine.stages.manner import Cast, read_instructions
from engine.stages.pcm import to_pcm16
from engine.stages.speak import Speaker, speak
from engine.stages.talker_batch import Guidance, patch_limit
from engine.stages.text import make_front_end
from engine.stages.voice import Voice
from engine.stages.voices import load_voices
from tests.engine.speech import byte_encoder, load_quick

MODEL = load_quick()
CAST = Cast(MODEL, byte_encoder(), {})
TEXT = "Hello there, this is a text of two segments. And here is the second one of them."


def run(loop: SpeechLoop) -> dict[int, list[SpeechOutput]]:
    """Everything that comes out, by request."""
    outputs: dict[int, list[SpeechOutput]] = {}
    while loop.has_work:
        for output in loop.run_once():
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def pcm(outputs: list[SpeechOutput]) -> bytes:
    return b"".join(output.pcm for output in outputs)


def spoken(request: SpeechRequest, text: str, num_slots: int = 2) -> list[SpeechOutput]:
    loop = SpeechLoop(CAST, num_slots)
    loop.open(request)
    loop.say(request.id, text, last=True)
    return run(loop)[request.id]


def assert_same_sound(first: list[SpeechOutput], second: list[SpeechOutput]) -> None:
    """Up to the rounding of another batch shape."""
    a, b = (np.frombuffer(pcm(outputs), "<i2").astype(int) for outputs in (first, second))
    assert len(a) == len(b)
    assert np.abs(a - b).max() <= 4


@pytest.mark.slow
def test_samples_are_those_of_speaking_without_a_server() -> None:
    outputs = spoken(SpeechRequest(1, seed=3), TEXT)
    front_end = make_front_end()
    segments = front_end.push(TEXT) + front_end.finish()
    assert len(segments) > 1
    want = speak(Speaker(MODEL, byte_encoder(), seed=3), segments)
    assert pcm(outputs) == b"".join(map(to_pcm16, want))
    assert [output.finish for output in outputs] == [None] * (len(outputs) - 1) + [SpeechFinish.STOP]
    assert sum(output.num_prompt_tokens for output in outputs) == sum(map(len, segments))


@pytest.mark.slow
def test_text_in_pieces_sounds_like_text_at_once() -> None:
    loop = SpeechLoop(CAST, 1)
    loop.open(SpeechRequest(1, seed=3))
    heard: list[SpeechOutput] = []
    for char in TEXT:
        loop.say(1, char, last=False)
        heard += loop.run_once()
    assert any(output.pcm for output in heard), "it speaks while the text is still coming"
    loop.say(1, "", last=True)
    assert pcm(heard + run(loop)[1]) == pcm(spoken(SpeechRequest(1, seed=3), TEXT))


@pytest.mark.slow
def test_several_at_once_and_more_than_there_are_slots() -> None:
    loop = SpeechLoop(CAST, 2)
    for number in (1, 2, 3):
        loop.open(SpeechRequest(number, seed=number))
        loop.say(number, TEXT, last=True)
    loop.run_once()
    stats = loop.stats()
    assert (stats.num_open, stats.num_running, stats.num_waiting, stats.num_free_slots) == (3, 2, 1, 0)
    outputs = run(loop)
    for number in (1, 2, 3):
        assert outputs[number][-1].finish is SpeechFinish.STOP
    assert_same_sound(outputs[3], spoken(SpeechRequest(3, seed=3), TEXT))
    assert (loop.stats().num_open, loop.stats().num_free_slots) == (0, 2)


def test_an_aborted_utterance_frees_its_slot() -> None:
    loop = SpeechLoop(CAST, 1)
    loop.open(SpeechRequest(1))
    loop.say(1, TEXT, last=True)
    loop.run_once()
    assert loop.stats().num_free_slots == 0
    loop.abort((1, 9))
    assert (loop.stats().num_free_slots, loop.stats().num_open, loop.has_work) == (1, 0, False)
    loop.say(1, "more", last=True)
    assert not loop.has_work


@pytest.mark.slow
def test_the_limit_on_steps_counts_over_segments() -> None:
    unlimited = sum(output.num_steps for output in spoken(SpeechRequest(1), TEXT))
    outputs = spoken(SpeechRequest(1, max_steps=unlimited - 1), TEXT)
    assert (sum(output.num_steps for output in outputs), outputs[-1].finish) == (unlimited - 1, SpeechFinish.LENGTH)
    (first, second) = spoken(SpeechRequest(1, max_steps=2), TEXT)
    assert (first.finish, second.finish) == (None, SpeechFinish.LENGTH)
    assert len(pcm([first, second])) > 0, "what the decoder held back is flushed"


@pytest.mark.parametrize("text", ["", "...", "😀"])
def test_nothing_to_say_ends_at_once(text: str) -> None:
    assert spoken(SpeechRequest(1), text) == [SpeechOutput(1, finish=SpeechFinish.STOP)]


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    outputs = spoken(SpeechRequest(1, instructions="x" * 2048), TEXT)
    assert outputs[-1].finish is SpeechFinish.REFUSED
    assert "tokens, at most" in str(outputs[-1].error)


@pytest.mark.slow
def test_long_texts_end() -> None:
    text = "今天天气很好" * 100
    loop = SpeechLoop(CAST, 1)
    loop.open(SpeechRequest(1, max_steps=40))
    loop.say(1, text, last=True)
    assert run(loop)[1][-1].finish is SpeechFinish.LENGTH


def test_who_speaks() -> None:
    voice = Voice(latents=torch.zeros(4, 64), prompt_rows=torch.zeros(1, 64), prompt_text="said")
    cast = Cast(MODEL, byte_encoder(), {"other": Voice(), "DB30": voice})
    assert cast.default_voice == "DB30"
    assert cast.speaker(SpeechRequest(1)).voice is voice
    assert cast.speaker(SpeechRequest(1, voice="other")).voice == Voice()
    # A caption goes with the clip alone, or with nobody in particular.
    styled = cast.speaker(SpeechRequest(1, voice="DB30", instructions="sad")).voice
    assert (styled.latents, styled.prompt_rows, styled.prompt_text) == (voice.latents, None, None)
    nobody = cast.speaker(SpeechRequest(1, instructions="sad")).voice.speakers
    assert nobody is not None
    assert not nobody.any()
    given = cast.speaker(SpeechRequest(1, speaker=(0.5,) * 192)).voice.speakers
    assert given is not None
    assert torch.equal(given, MODEL.talker.project_speakers(torch.full((1, 192), 0.5)))
    assert CAST.speaker(SpeechRequest(1)).voice == Voice()


def test_the_operator_sets_how_long_a_segment_may_be() -> None:
    patient = Cast(MODEL, byte_encoder(), {}, slack=3.0)
    limits = [cast.speaker(SpeechRequest(1)).segment("x" * 45).max_patches for cast in (CAST, patient)]
    assert limits == [patch_limit(45, MODEL.config.patch_s), patch_limit(45, MODEL.config.patch_s, 3.0)]
    assert limits[0] < limits[1]


def test_how_it_is_solved() -> None:
    strength = MODEL.config.talker.cfg_strength
    assert CAST.speaker(SpeechRequest(1)).guidance == Guidance(strength, temperature=0.0)
    assert CAST.speaker(SpeechRequest(1, temperature=0.5)).guidance == Guidance(strength, temperature=0.5)


@pytest.mark.parametrize("max_steps", [None, 1])
@pytest.mark.slow
def test_samples_that_are_no_numbers_are_an_error_of_that_request_alone(max_steps: int | None) -> None:
    loop = SpeechLoop(CAST, 2)
    loop.open(SpeechRequest(1, speaker=(math.nan,) * 192, max_steps=max_steps))
    loop.open(SpeechRequest(2, seed=2))
    for number in (1, 2):
        loop.say(number, TEXT, last=True)
    outputs = run(loop)
    assert pcm(outputs[1]) == b""
    assert outputs[1][-1].finish is SpeechFinish.REFUSED
    assert "overflow" in (outputs[1][-1].error or "")
    assert_same_sound(outputs[2], spoken(SpeechRequest(2, seed=2), TEXT))
    assert loop.stats().num_free_slots == 2


def test_instructions() -> None:
    assert read_instructions("slowly") == caption({STYLE: "slowly"})
    assert read_instructions('{"情感": "高兴"}') == caption({"情感": "高兴"})
    assert read_instructions("{}") == caption({})


@pytest.mark.parametrize(
    "words",
    ["[1]", "{slowly}", "[" * 1024, '{"BGM":' * 146, '{"BGM":' + "[" * 500 + "]" * 500 + "}", r'{"情感": "\ud800"}'],
)
def test_instructions_that_are_no_caption_are_words(words: str) -> None:
    assert read_instructions(words) == caption({STYLE: words})
    byte_encoder().encode(read_instructions(words))


@pytest.mark.parametrize("place", ["talker/data", "data"])
def test_presets_are_found_and_incomplete_ones_left_out(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    (folder / "wavs").mkdir(parents=True)
    soundfile.write(folder / "wavs" / "a.wav", np.zeros(1600), 16_000)
    (folder / "voice_name.json").write_text(
        '{"DB30": {"prompt_wav_path": "data/wavs/a.wav", "prompt_text": "hi"}, "b": {"prompt_text": "no clip"},'
        ' "c": {"prompt_wav_path": "data/wavs/a.wav"}}'
    )
    voices = load_voices(MODEL, tmp_path / "talker")
    assert list(voices) == ["DB30"]
    assert (voices["DB30"].prompt_text, voices["DB30"].num_prompt_patches, voices["DB30"].speakers) == ("hi", 1, None)
    assert load_voices(MODEL, tmp_path / "elsewhere" / "talker") == {}
