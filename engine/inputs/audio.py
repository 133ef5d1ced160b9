"""Waveforms to log-mel frames: first channel, 16 kHz, Whisper's front end; no padding, no trimming."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InvalidRequest
from engine.inputs.mel import SAMPLE_RATE_HZ, WINDOW, log_mel
from engine.inputs.processor_config import AudioProcessorConfig
from engine.inputs.resample import resample

F32 = npt.NDArray[np.float32]

MAX_AUDIO_S = 300  # the encoder's position table ends here, and long clips are not split
MIN_SAMPLES = WINDOW // 2 + 1  # the ends are reflected by half a window


def first_channel(waveform: npt.NDArray[Any]) -> F32:
    """[channels, n] or [n] to float32 [n] in -1..1: channels are not averaged, signed integers are scaled."""
    mono = waveform[0] if waveform.ndim == 2 else waveform
    if np.issubdtype(mono.dtype, np.signedinteger):
        return (mono / 2.0 ** (8 * mono.itemsize - 1)).astype(np.float32)
    return mono.astype(np.float32, copy=False)


def preprocess_audio(waveform: npt.NDArray[Any], rate_hz: int, config: AudioProcessorConfig) -> tuple[F32, int]:
    """[channels, n] or [n] at `rate_hz` to log-mel frames [L, num_mels] and the number of placeholder tokens.

    Raises:
        InvalidRequest: the clip is longer than 300 s or shorter than 201 samples at 16 kHz.
    """
    check_duration(waveform.shape[-1], rate_hz)
    if not np.isfinite(waveform).all():
        raise InvalidRequest("the audio has samples that are no finite numbers", code="invalid_media")
    samples = resample(first_channel(waveform), rate_hz, SAMPLE_RATE_HZ)
    if len(samples) < MIN_SAMPLES:
        raise InvalidRequest(
            f"audio is too short: {len(samples)} samples at 16 kHz, the minimum is {MIN_SAMPLES}", code="invalid_media"
        )
    frames = log_mel(samples, config.num_mels)
    return frames, config.num_tokens(len(frames))


def check_duration(num_samples: int, rate_hz: int) -> None:
    """Refuse a clip that the encoder cannot hold."""
    if num_samples > MAX_AUDIO_S * rate_hz:
        raise InvalidRequest(
            f"audio is longer than {MAX_AUDIO_S} s; split it into shorter clips", code="audio_too_long"
        )
