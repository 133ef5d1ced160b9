"""Small media files made on the fly, and the golden case of preprocessing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parents[2] / "goldens" / "understanding" / "f_preprocessing"

AUDIO_FILES = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "ogg-opus": ("OGG", "OPUS"),
}
VIDEO_FILES = {
    "mp4-h264": ("mp4", "libx264", {"g": "12", "bf": "2"}),
    "mov-hevc": ("mov", "libx265", {"x265-params": "log-level=none:keyint=12"}),
    "webm-vp8": ("webm", "libvpx", {"g": "12"}),
    "webm-vp9": ("webm", "libvpx-vp9", {"g": "12"}),
    "mp4-av1": ("mp4", "libsvtav1", {"preset": "12", "g": "12"}),
}


@cache
def golden() -> tuple[Mapping[str, npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]], Mapping[str, Any]]:
    """Inputs, expected arrays and tables."""
    tables = json.loads((GOLDEN / "tables.json").read_text(encoding="utf-8"))
    return load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "expected.safetensors"), tables


def gradient(width: int, height: int) -> Image.Image:
    """A picture whose red rises to the right and whose green rises downwards."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 60)], axis=-1).astype(np.uint8))


def image_file(fmt: str = "PNG", size: tuple[int, int] = (70, 50), **options: Any) -> bytes:
    buffer = BytesIO()
    gradient(*size).save(buffer, fmt, **options)
    return buffer.getvalue()


def tone(num_samples: int, rate_hz: int, frequency_hz: float = 440.0) -> npt.NDArray[np.float32]:
    """A sine of half the full scale."""
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / rate_hz)).astype(np.float32)


def audio_file(kind: str = "wav", num_samples: int = 16_000, rate_hz: int = 16_000, num_channels: int = 1) -> bytes:
    """A 440 Hz tone in the first channel, silence in the others."""
    samples = np.zeros((num_samples, num_channels), np.float32)
    samples[:, 0] = tone(num_samples, rate_hz)
    fmt, subtype = AUDIO_FILES[kind]
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=fmt, subtype=subtype)
    return buffer.getvalue()


def yamaha_wav(num_samples: int = 16_000, rate_hz: int = 16_000) -> bytes:
    """A WAV file with a codec that libsndfile does not read."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("adpcm_yamaha", rate=rate_hz, layout="mono")
        _mux_tone(container, stream, num_samples, rate_hz, "s16")
    return buffer.getvalue()


def video_file(
    kind: str = "mp4-h264",
    num_frames: int = 25,
    fps: int | Fraction = 12,
    size: tuple[int, int] = (64, 48),
    sound: bool = False,
) -> bytes:
    """Frame k is a plain grey of level 10 k (up to 25 frames), so that a decoded frame tells its index."""
    fmt, codec, options = VIDEO_FILES[kind]
    buffer = BytesIO()
    with _ordinary_priority(), av.open(buffer, "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for index in range(num_frames):
            pixels = np.full((size[1], size[0], 3), 10 * index % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
        if audio is not None:
            _mux_tone(container, audio, 16_000, 16_000, "fltp")
    return buffer.getvalue()


@contextmanager
def _ordinary_priority() -> Iterator[None]:
    """The AV1 encoder puts the thread that calls it, where it may, before all others of the machine, for good."""
    scheduling = (os.sched_getscheduler(0), os.sched_getparam(0)) if hasattr(os, "sched_getscheduler") else None
    yield
    if scheduling is not None:
        os.sched_setscheduler(0, *scheduling)


def _mux_tone(container: Any, stream: Any, num_samples: int, rate_hz: int, fmt: str) -> None:
    samples = tone(num_samples, rate_hz)[None]
    values = (samples * 32767).astype(np.int16) if fmt == "s16" else samples
    frame = av.AudioFrame.from_ndarray(values, fmt, "mono")
    frame.sample_rate = rate_hz
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def frame_level(frame: npt.NDArray[np.uint8]) -> float:
    """Index of a frame of `video_file`, by its grey."""
    return float(frame.mean()) / 10
