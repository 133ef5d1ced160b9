"""Whole requests: segments one after another, voices, and the waveform of a stream against that of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.errors import InvalidRequest
from engine.models.talker import Talker
from engine.stages.captions import caption
from engine.stages.prompt import build_prompt
from engine.stages.silence import SilenceHold
from engine.stages.speak import Speaker, speak
from engine.stages.talker_batch import Guidance, TalkerBatch
from engine.stages.voice import ZERO_SPEAKER, Voice, make_voice
from engine.stages.waveform import Rendering, SegmentAudio, render
from tests.engine.speech import byte_encoder, load_quick, load_tensors

MODEL = load_quick()
TEXTS = ["Hello there.", "And more."]


def clip(num_samples: int) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(0)) * 0.1


def spoken(speaker: Speaker, texts: list[str]) -> np.ndarray:
    return np.concatenate(list(speak(speaker, texts)))


@pytest.mark.slow
def test_segments_follow_each_other_and_do_not_depend_on_each_other() -> None:
    speaker = Speaker(MODEL, byte_encoder(), seed=3)
    both = spoken(speaker, TEXTS)
    first = spoken(speaker, TEXTS[:1])
    np.testing.assert_array_equal(both[: len(first)], first)
    # The second has noise of its own: said first, the same words sound different.
    swapped = spoken(speaker, TEXTS[1:])
    assert len(both) > len(first)
    assert not np.array_equal(both[len(first) :][:240], swapped[:240])


def test_nothing_to_say_is_no_audio() -> None:
    assert list(speak(Speaker(MODEL, byte_encoder()), [])) == []


@torch.inference_mode()
@pytest.mark.slow
def test_stream_equals_decoding_at_once() -> None:
    """Patch by patch through stream and silence, or all latents at once and trimmed."""
    speaker = Speaker(MODEL, byte_encoder(), seed=5)
    batch = TalkerBatch(MODEL.talker, 1)
    batch.admit(speaker.segment(TEXTS[0]))
    patches = []
    while not batch.num_free:
        patches += batch.step()
    whole = MODEL.vae.decoder(torch.cat([patch.latents for patch in patches])[None])[0].numpy()
    want = SilenceHold.at(MODEL.config.vae.sample_rate).push(whole, last=True)
    got = spoken(speaker, TEXTS[:1])
    assert len(whole) == len(patches) * MODEL.config.patch_samples
    np.testing.assert_allclose(got[: len(want)], want, atol=1e-5)
    assert 0 <= len(got) - len(want) < 240


def test_an_ended_segment_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit no audio is lost: every patch comes out, the last one with its tail."""
    monkeypatch.setattr(Talker, "stop_probability", lambda _self, hidden: torch.zeros(len(hidden)))
    monkeypatch.setattr(SilenceHold, "push", lambda self, samples, last: samples)
    speaker = Speaker(MODEL, byte_encoder())
    num_patches = speaker.segment("x").max_patches
    assert len(spoken(speaker, ["x"])) == num_patches * MODEL.config.patch_samples


def test_segments_render_side_by_side() -> None:
    x = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(2))
    audios = [SegmentAudio.start(MODEL) for _ in range(2)]
    together = [render(MODEL, [Rendering(a, x[i, :4], False) for i, a in enumerate(audios)])]
    together.append(render(MODEL, [Rendering(a, x[i, 4:], True) for i, a in enumerate(audios)]))
    for i in range(2):
        audio = SegmentAudio.start(MODEL)
        alone = [render(MODEL, [Rendering(audio, x[i, 4 * k : 4 * k + 4], k == 1)])[0] for k in range(2)]
        got = np.concatenate([call[i] for call in together])
        np.testing.assert_allclose(got, np.concatenate(alone), atol=1e-5)


def test_guidance_defaults_to_the_checkpoints_strength() -> None:
    assert Speaker(MODEL, byte_encoder()).guidance == Guidance(cfg=MODEL.config.talker.cfg_strength)


def test_voice_of_a_clip_with_transcript() -> None:
    """Its embeddings stand behind `<audio>`, its latents start the history, the speaker has a row of its own."""
    vectors = load_tensors("e2e_talker", "inputs")["speaker_embedding"]
    voice = make_voice(MODEL, vectors, clip(1000), "said")
    assert voice.latents is not None
    assert voice.prompt_rows is not None
    assert (len(voice.latents), voice.num_prompt_patches, voice.num_speakers) == (12, 3, 1)
    speaker = Speaker(MODEL, byte_encoder(), voice)
    built = build_prompt(byte_encoder(), "text", speaker.prompt)
    segment = speaker.segment("text")
    assert torch.equal(segment.prompt[list(built.audio_rows)], voice.prompt_rows)
    assert torch.equal(segment.prompt[list(built.speaker_rows)], MODEL.talker.project_speakers(vectors))
    assert segment.latents is voice.latents


def test_voice_of_a_clip_without_transcript() -> None:
    voice = make_voice(MODEL, clip=clip(1000))
    assert (voice.num_prompt_patches, voice.prompt_text) == (0, None)
    assert Speaker(MODEL, byte_encoder(), voice).segment("text").latents is voice.latents


def test_several_speakers_and_none() -> None:
    vectors = torch.randn(2, 192, generator=torch.Generator().manual_seed(1))
    assert make_voice(MODEL, vectors).num_speakers == 2
    zero = make_voice(MODEL, ZERO_SPEAKER)
    assert zero.speakers is not None
    assert zero.speakers.tolist() == [[0.0] * 64]
    assert make_voice(MODEL) == Voice()


def test_a_voice_is_its_mean_unless_noise_is_given() -> None:
    mean, again = make_voice(MODEL, clip=clip(400)).latents, make_voice(MODEL, clip=clip(400)).latents
    assert mean is not None
    assert again is not None
    assert torch.equal(mean, again)
    noisy = make_voice(MODEL, clip=clip(400), noise=torch.ones(8, 64)).latents
    assert noisy is not None
    assert bool((noisy > mean).all())


@pytest.mark.parametrize(("seconds", "num_patches"), [(0.0005, 1), (0.1, 1), (0.16, 1), (0.17, 2), (60, 375)])
@pytest.mark.slow
def test_clips_of_any_length(seconds: float, num_patches: int) -> None:
    voice = make_voice(MODEL, clip=clip(max(1, int(seconds * 2400))), transcript="said")
    assert voice.num_prompt_patches == num_patches
    audio = next(speak(Speaker(MODEL, byte_encoder(), voice, seed=1), ["Hi."]))
    assert np.isfinite(audio).all()


def test_a_clip_that_fills_the_prompt_is_refused() -> None:
    # 320 s; what the encoder makes of a clip is told above.
    voice = Voice(latents=torch.zeros(8000, 64), prompt_rows=torch.zeros(2000, 64), prompt_text="said")
    with pytest.raises(InvalidRequest, match="shorten the reference clip"):
        next(speak(Speaker(MODEL, byte_encoder(), voice), ["Hi."]))


def test_an_instruction_changes_the_speech() -> None:
    plain = spoken(Speaker(MODEL, byte_encoder(), seed=1), TEXTS[:1])
    happy = spoken(Speaker(MODEL, byte_encoder(), instruction=caption({"情感": "高兴"}), seed=1), TEXTS[:1])
    assert not np.array_equal(plain[:500], happy[:500])
