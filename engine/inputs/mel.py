"""Log-mel spectra as Whisper computes them: 16 kHz, windows of 25 ms every 10 ms, Slaney's mel scale."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SAMPLE_RATE_HZ = 16_000
WINDOW = 400
HOP = 160

_HZ_PER_MEL = 200 / 3  # the scale is linear below 1 kHz and logarithmic above
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def log_mel(waveform: F32, num_mels: int = 128) -> F32:
    """Samples [n] at 16 kHz, at least 201 of them, to log-mel frames [n // 160, num_mels].

    Values are clipped to 80 dB below the clip's maximum and scaled as the encoder was trained on; the clip is
    neither padded nor cut to 30 s.
    """
    power = np.maximum(_power_spectrum(waveform) @ mel_filters(num_mels).T, np.float32(1e-10))
    levels: F32 = np.log10(power)
    levels = np.maximum(levels, levels.max() - np.float32(8))
    return (levels + np.float32(4)) / np.float32(4)


def _power_spectrum(waveform: F32) -> F32:
    """[n] -> [n // 160, 201]: centred windows on reflected ends; the window after the last whole hop is dropped."""
    padded = np.pad(waveform, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: len(waveform) // HOP]
    spectrum = np.fft.rfft(windows * _hann_window())
    power: F32 = np.square(spectrum.real) + np.square(spectrum.imag)
    return power


@lru_cache(maxsize=1)
def _hann_window() -> F32:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


@lru_cache(maxsize=2)
def mel_filters(num_mels: int = 128) -> F32:
    """Triangles of equal area over the 201 bins of 0 to 8 kHz, float32 [num_mels, 201]."""
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW // 2 + 1)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE_HZ / 2), num_mels + 2))
    width = np.diff(edges)
    distance = edges[:, None] - bins
    rising = -distance[:-2] / width[:-1, None]
    falling = distance[2:] / width[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: F32 = (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    filters.flags.writeable = False
    return filters


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale, for frequencies above its break."""
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mels: F64) -> F64:
    return np.where(mels < _BREAK_MEL, mels * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL)))
