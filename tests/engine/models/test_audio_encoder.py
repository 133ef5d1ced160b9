from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.models.audio_encoder import AudioEncoder, AudioProjector, num_audio_tokens, sinusoids
from engine.models.observe import run_audio
from tests.engine.models.goldens import Golden, assert_matches, load_golden, relative_error

TABLE = "audio.positional_embedding"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden("e_audio")


def new_encoder(golden: Golden) -> AudioEncoder:
    cfg = golden.config()
    assert cfg.audio is not None
    return AudioEncoder(cfg.audio, cfg.llm.hidden_size, cfg.mlp_depth)


def load_encoder(golden: Golden) -> AudioEncoder:
    encoder = new_encoder(golden)
    encoder.load_state_dict(golden.weights(), strict=True)
    return encoder


@pytest.fixture(scope="module")
def encoder(golden: Golden) -> AudioEncoder:
    return load_encoder(golden)


@pytest.fixture(scope="module")
def clips(golden: Golden) -> list[Tensor]:
    lengths = golden.inputs["audio_feats_lengths"][0].tolist()
    return list(golden.inputs["audio_feats"][0].split(lengths))


@torch.inference_mode()
def encode(encoder: AudioEncoder, clips: list[Tensor]) -> list[Tensor]:
    return encoder.encode(clips)


@torch.inference_mode()
def encode_padded(encoder: AudioEncoder, clips: list[Tensor]) -> list[Tensor]:
    return encoder.encode_padded(clips)


def test_every_intermediate_matches_the_released_tower(encoder: AudioEncoder, golden: Golden) -> None:
    """Both variants: the released padded batch, and each clip alone."""
    assert_matches(run_audio(encoder, golden.inputs), golden.expected)


def test_only_the_padded_batch_lets_clips_hear_each_other(encoder: AudioEncoder, clips: list[Tensor]) -> None:
    alone = [encode(encoder, [clip])[0] for clip in clips]
    short, long = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    packed, padded = encode(encoder, clips), encode_padded(encoder, clips)
    for got, want in zip(packed, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded[long], alone[long], rtol=1e-5, atol=1e-6)
    assert padded[short].shape == alone[short].shape
    assert float((padded[short] - alone[short]).abs().max()) > 0.01


def test_clips_come_back_in_order_whatever_shares_their_batch(encoder: AudioEncoder) -> None:
    generator = torch.Generator().manual_seed(2)
    clips = [torch.randn(length, 128, generator=generator) for length in (37, 20, 37, 9, 20, 37)]
    for got, clip in zip(encode(encoder, clips), clips, strict=True):
        torch.testing.assert_close(got, encode(encoder, [clip])[0], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_without_position_table_gets_the_analytic_one(golden: Golden) -> None:
    weights = golden.weights()
    del weights[TABLE]
    encoder = new_encoder(golden)
    assert encoder.load_state_dict(weights, strict=False).missing_keys == [TABLE]
    assert_matches(run_audio(encoder, golden.inputs), golden.expected)


def test_reset_fills_the_table_of_a_model_made_without_storage(golden: Golden) -> None:
    with torch.device("meta"):
        encoder = new_encoder(golden)
    weights = golden.weights()
    want = weights.pop(TABLE)
    encoder.load_state_dict({name: tensor.bfloat16() for name, tensor in weights.items()}, strict=False, assign=True)
    encoder.audio.reset(torch.device("cpu"))
    assert torch.equal(encoder.audio.positional_embedding, want.bfloat16())


def test_position_table_is_sines_then_cosines() -> None:
    """Four frequencies from 1 to 1 / 10000: their exponent runs over width / 2 - 1 steps."""
    table = sinusoids(3, 8)
    for position in range(3):
        angles = [position * 10000 ** (-k / 3) for k in range(4)]
        want = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        torch.testing.assert_close(table[position], torch.tensor(want))


def test_token_counts_are_those_of_the_features(encoder: AudioEncoder) -> None:
    assert num_audio_tokens(encoder.cfg, 16123 // 160) == 25
    assert num_audio_tokens(encoder.cfg, 30000) == 7500
    for length in (1, 2, 3, 4, 5, 8, 9, 57, 100):
        count = num_audio_tokens(encoder.cfg, length)
        assert count == math.ceil(length / 4)
        assert len(encode(encoder, [torch.zeros(length, 128)])[0]) == count


def test_a_clip_longer_than_the_position_table_is_refused(encoder: AudioEncoder) -> None:
    limit = 2 * encoder.cfg.whisper_encoder_config.n_ctx
    assert encode(encoder, [torch.zeros(limit, 128)])[0].shape[0] == limit // 4
    with pytest.raises(ValueError, match=f"longer than the {limit}"):
        encode(encoder, [torch.zeros(limit + 1, 128)])


def test_features_have_unit_norm_only_where_configured(golden: Golden, clips: list[Tensor]) -> None:
    encoder = load_encoder(golden)
    unit = encode(encoder, clips[:1])[0]
    encoder.cfg = replace(encoder.cfg, norm_query_embeds=False)
    plain = encode(encoder, clips[:1])[0]
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(len(unit)))
    torch.testing.assert_close(plain / plain.norm(dim=-1, keepdim=True), unit)
    assert float((plain.norm(dim=-1) - 1).abs().max()) > 0.1


def test_bfloat16_stays_close(golden: Golden) -> None:
    got = run_audio(load_encoder(golden).bfloat16(), golden.inputs)
    for name in ("batch.audio_embeds", "clip0.audio_embeds", "clip1.audio_embeds"):
        assert got[name].dtype == torch.bfloat16
        assert relative_error(got[name], golden.expected[name]) < 3e-2


@pytest.mark.gpu
def test_the_golden_holds_on_the_gpu(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    encoder = load_encoder(golden).cuda()
    inputs = {name: tensor.cuda() for name, tensor in golden.inputs.items()}
    assert_matches(run_audio(encoder, inputs), golden.expected)
    got = run_audio(encoder.bfloat16(), inputs)
    assert relative_error(got["batch.audio_embeds"].cpu(), golden.expected["batch.audio_embeds"]) < 3e-2


def test_projector_layers_have_their_released_numbers(encoder: AudioEncoder) -> None:
    names = set(AudioProjector(encoder.cfg, 16, mlp_depth=3).state_dict())
    assert names == {f"{i}.{leaf}" for i in (0, 3, 5) for leaf in ("weight", "bias")}
