"""Tones, sweeps and silence as samples in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

RATE_HZ = 16_000
_LEVEL = 0.4
_FADE_S = 0.01  # a tone cut off at full level would click


def tone(frequency_hz: float, duration_s: float) -> Samples:
    """A sine of one pitch."""
    return sweep(frequency_hz, frequency_hz, duration_s)


def sweep(start_hz: float, end_hz: float, duration_s: float) -> Samples:
    """A sine whose pitch goes evenly from one frequency to another."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    cycles = start_hz * time_s + (end_hz - start_hz) * time_s**2 / (2 * duration_s)
    edges_s = np.minimum(time_s, time_s[::-1])
    faded: Samples = _LEVEL * np.sin(2 * np.pi * cycles) * np.minimum(1.0, edges_s / _FADE_S)
    return faded


def silence(duration_s: float) -> Samples:
    """No sound."""
    return np.zeros(round(duration_s * RATE_HZ))


def join(pieces: Sequence[Samples]) -> Samples:
    """One after the other."""
    return np.concatenate(pieces)


def as_int16(samples: Samples) -> NDArray[np.int16]:
    """Samples as 16-bit integers."""
    return np.round(samples * 32767).astype(np.int16)
