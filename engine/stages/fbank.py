"""Kaldi's log mel filter bank as the released speaker encoder was trained on it: 80 bins, 16 kHz, no dither."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

RATE_HZ = 16_000
NUM_BINS = 80
FRAME = 400  # 25 ms
SHIFT = 160  # 10 ms
_FFT = 512
_LOW_HZ, _HIGH_HZ = 20.0, RATE_HZ / 2
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)


def num_frames(num_samples: int) -> int:
    """Whole frames only: what is left at the end is not heard."""
    return max(0, 1 + (num_samples - FRAME) // SHIFT)


def log_mel_bank(samples: F32) -> F32:
    """Samples [n] in -1..1, n >= 400 -> log energies [T, 80]."""
    count = num_frames(len(samples))
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::SHIFT][:count]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
    emphasised = (frames - _PREEMPHASIS * before) * _window()
    power = np.abs(np.fft.rfft(emphasised, n=_FFT)) ** 2
    mel: F32 = np.log(np.maximum(power[:, : _FFT // 2] @ _filters().T, _FLOOR)).astype(np.float32)
    return mel


@lru_cache(maxsize=1)
def _window() -> F64:
    """Povey's window: a Hann window to the power 0.85."""
    window: F64 = np.hanning(FRAME) ** 0.85
    return window


def _mel(hz: npt.ArrayLike) -> F64:
    scaled: F64 = 1127.0 * np.log1p(np.asarray(hz) / 700.0)
    return scaled


@lru_cache(maxsize=1)
def _filters() -> F64:
    """Triangles of equal width on the mel scale, [80, 256]."""
    edges = np.linspace(_mel(_LOW_HZ), _mel(_HIGH_HZ), NUM_BINS + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    at = _mel(np.arange(_FFT // 2) * (RATE_HZ / _FFT))
    rising, falling = (at - left) / (centre - left), (right - at) / (right - centre)
    filters: F64 = np.maximum(0.0, np.minimum(rising, falling))
    return filters
