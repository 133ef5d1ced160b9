"""Kaldi's features in numbers of Kaldi itself, and a small model in place of the speaker encoder."""

from __future__ import annotations

import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, InvalidRequest
from engine.stages.fbank import log_mel_bank, num_frames
from engine.stages.speaker_encoder import find_speaker_encoder, load_speaker_encoder

# [1, T, 80] -> the mean over time, two and a half times over: [1, 192].
MODEL = b64decode(
    "CAg62AEKKQoBeAoEYXhpcxIBbSIKUmVkdWNlTWVhbioPCghrZWVwZGltcxgAoAECCiEKAW0KAW0KAW0SAWMiBkNvbmNhdCoLCgRheGlzGAGgAQIKGQoB"
    "YwoBcwoBZQoEYXhpcxIBeSIFU2xpY2USAWcqFAgBEAdCBGF4aXNKCAEAAAAAAAAAKhEIARAHQgFzSggAAAAAAAAAACoRCAEQB0IBZUoIwAAAAAAAAABa"
    "GAoBeBITChEIARINCgIIAQoDEgF0CgIIUGIUCgF5Eg8KDQgBEgkKAggBCgMIwAFCBAoAEBI="
)
TONE = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(720) / 16_000)).astype(np.float32)


def encoder_file(folder: Path) -> Path:
    file = folder / "campplus.onnx"
    file.write_bytes(MODEL)
    return file


def test_features_are_kaldis() -> None:
    """Second frame of a tone of 1 kHz, from kaldi-native-fbank 1.23 (80 bins, povey, no dither, snipped edges)."""
    features = log_mel_bank(TONE)
    assert features.shape == (3, 80)
    kaldi = {0: -14.7566, 10: -12.4378, 26: 4.9905, 27: 6.2595, 28: 4.5115, 29: -0.31, 50: -15.9424, 79: -15.9424}
    for bin_index, want in kaldi.items():
        assert float(features[1, bin_index]) == pytest.approx(want, abs=2e-3)


def test_only_whole_frames_count() -> None:
    assert [num_frames(n) for n in (0, 399, 400, 559, 560, 16_000)] == [0, 0, 1, 1, 2, 98]


def test_a_vector_is_of_centred_features(tmp_path: Path) -> None:
    vector = load_speaker_encoder(encoder_file(tmp_path))(TONE)
    assert vector.shape == (192,)
    assert float(np.abs(vector).max()) < 1e-5  # their mean over time is taken away, and this model takes the mean


def test_a_clip_below_one_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="399 samples at 16000 Hz, the minimum is 400"):
        load_speaker_encoder(encoder_file(tmp_path))(TONE[:399])


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert find_speaker_encoder(tmp_path, None) is None
    assert "campplus.onnx does not exist" in caplog.text
    with pytest.raises(ConfigError, match=r"other\.onnx does not exist"):
        find_speaker_encoder(tmp_path, tmp_path / "other.onnx")
    file = encoder_file(tmp_path)
    assert find_speaker_encoder(tmp_path, None) is not None
    file.write_bytes(b"no model")
    with pytest.raises(ConfigError, match="no model that onnxruntime reads"):
        load_speaker_encoder(file)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime; install ming-eval\[speech\]"):
        load_speaker_encoder(file)
