from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from engine.errors import InvalidRequest
from engine.inputs.audio import first_channel, preprocess_audio
from engine.inputs.mel import log_mel, mel_filters
from engine.inputs.processor_config import AudioProcessorConfig
from engine.inputs.resample import resample
from tests.engine.inputs.media_files import golden, tone

CONFIG = AudioProcessorConfig()


def specified_resample(samples: npt.NDArray[np.float32], rate: int, target: int) -> npt.NDArray[np.float32]:
    """The filter as the specification states it: every phase, every tap, no grouping."""
    divisor = math.gcd(rate, target)
    o, n = rate // divisor, target // divisor
    b = min(o, n) * 0.99
    width = math.ceil(6 * o / b)
    t = np.clip((np.arange(-width, width + o)[None] / o - np.arange(n)[:, None] / n) * b, -6, 6)
    taps = (np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * b / o).astype(np.float32)
    padded = np.pad(samples, (width, width + o))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])[::o]
    return (windows @ taps.T).reshape(-1)[: math.ceil(n * len(samples) / o)]


def test_resampled_audio_matches_the_golden() -> None:
    inputs, expected, tables = golden()
    samples = first_channel(inputs["waveform.1_stereo_int16"])
    got = resample(samples, tables["waveform"]["sr1"], 16_000)
    np.testing.assert_allclose(got, expected["waveform.1_normalised_16k"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("num_samples", [1, 160, 441, 5_000])
def test_resampling_follows_the_specified_filter(rate: int, num_samples: int) -> None:
    samples = np.random.default_rng(rate).standard_normal(num_samples).astype(np.float32)
    got, expected = resample(samples, rate, 16_000), specified_resample(samples, rate, 16_000)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_rates_without_a_common_divisor() -> None:
    # A dense filter bank of 44,101 Hz would take 2.8 GB.
    samples = tone(44_101, 44_101)
    got = resample(samples, 44_101, 16_000)
    assert len(got) == 16_000
    np.testing.assert_allclose(got[100:-100], tone(16_000, 16_000)[100:-100], atol=2e-3)


def test_equal_rates_change_nothing() -> None:
    samples = tone(100, 16_000)
    assert resample(samples, 16_000, 16_000) is samples


def test_channels_are_not_averaged_and_integers_are_scaled() -> None:
    stereo = np.array([[-32768, 16384], [32767, 32767]], dtype=np.int16)
    np.testing.assert_array_equal(first_channel(stereo), np.array([-1.0, 0.5], np.float32))
    wide = np.array([1 << 30], dtype=np.int32)
    assert first_channel(wide)[0] == 0.5


def test_mel_filters_match_the_golden() -> None:
    np.testing.assert_allclose(mel_filters(128), golden()[1]["mel_filters_128"], rtol=1e-6, atol=1e-9)


def test_log_mel_and_counts_match_the_golden() -> None:
    inputs, expected, tables = golden()
    clips = [(inputs["waveform.0"], tables["waveform"]["sr0"])]
    clips.append((inputs["waveform.1_stereo_int16"], tables["waveform"]["sr1"]))
    frames, tokens = zip(*(preprocess_audio(samples, rate, CONFIG) for samples, rate in clips), strict=True)
    assert [len(clip) for clip in frames] == expected["audio_feats_lengths"][0].tolist()
    assert list(tokens) == expected["encoder_feats_lengths"][0].tolist()
    got = np.concatenate(frames)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected["audio_feats"][0], rtol=1e-4, atol=1e-4)


def test_silence_is_one_level_and_a_tone_peaks_in_its_bin() -> None:
    # log10(1e-10) = -10, scaled (-10 + 4) / 4
    np.testing.assert_allclose(log_mel(np.zeros(1_600, np.float32)), np.full((10, 128), -1.5), rtol=0, atol=1e-6)
    peak = int(log_mel(tone(16_000, 16_000, 1_000.0))[50].argmax())
    assert abs(int(mel_filters(128)[:, 25].argmax()) - peak) <= 1  # bin 25 of 40 Hz each is 1 kHz


def test_levels_span_at_most_eighty_decibels_of_the_whole_clip() -> None:
    loud_then_silent = np.concatenate([tone(8_000, 16_000), np.zeros(8_000, np.float32)])
    frames = log_mel(loud_then_silent)
    assert frames.max() - frames.min() == pytest.approx(2.0, abs=1e-6)  # 8 decades, divided by 4
    assert frames[90].max() == frames.min()


def test_number_of_frames_is_whole_hops() -> None:
    frames, num_tokens = preprocess_audio(tone(16_123, 16_000), 16_000, CONFIG)
    assert (frames.shape, num_tokens) == ((100, 128), 25)


@pytest.mark.parametrize(("num_samples", "rate"), [(0, 16_000), (200, 16_000), (99, 8_000)])
def test_too_short_clips_are_refused(num_samples: int, rate: int) -> None:
    with pytest.raises(InvalidRequest, match="too short") as caught:
        preprocess_audio(np.zeros(num_samples, np.float32), rate, CONFIG)
    assert caught.value.code == "invalid_media"


def test_the_shortest_clip() -> None:
    frames, num_tokens = preprocess_audio(tone(201, 16_000), 16_000, CONFIG)
    assert (frames.shape, num_tokens) == ((1, 128), 1)


@pytest.mark.slow
def test_the_longest_clip() -> None:
    rate = 8_000
    frames, num_tokens = preprocess_audio(np.zeros(300 * rate, np.float32), rate, CONFIG)
    assert (len(frames), num_tokens) == (30_000, 7_500)
    with pytest.raises(InvalidRequest, match="300 s") as caught:
        preprocess_audio(np.zeros(300 * rate + 1, np.float32), rate, CONFIG)
    assert caught.value.code == "audio_too_long"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = tone(16_000, 16_000)
    samples[7_000] = value
    with pytest.raises(InvalidRequest, match="no finite numbers") as caught:
        preprocess_audio(samples, 16_000, CONFIG)
    assert caught.value.code == "invalid_media"
