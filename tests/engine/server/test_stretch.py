from __future__ import annotations

import numpy as np
import pytest

from engine.server.stretch import stretch, stretch_pcm

RATE_HZ = 16_000


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.5, 2.0, 4.0])
def test_length_changes_and_pitch_does_not(speed: float) -> None:
    tone = np.sin(2 * np.pi * 220 * np.arange(2 * RATE_HZ) / RATE_HZ).astype(np.float32)
    out = stretch(tone, RATE_HZ, speed)
    assert len(out) == pytest.approx(2 * RATE_HZ / speed, rel=0.05)
    spectrum = np.abs(np.fft.rfft(out))
    assert spectrum.argmax() * RATE_HZ / len(out) == pytest.approx(220, abs=8)
    middle = out[len(out) // 4 : -len(out) // 4]
    assert middle.std() == pytest.approx(tone.std(), rel=0.15)


def test_speed_one_changes_nothing() -> None:
    pcm = np.arange(-500, 500, dtype="<i2").tobytes()
    assert stretch_pcm(pcm, RATE_HZ, 1.0) == pcm


def test_what_is_shorter_than_two_frames_stays() -> None:
    pcm = np.arange(100, dtype="<i2").tobytes()
    assert stretch_pcm(pcm, RATE_HZ, 2.0) == pcm
