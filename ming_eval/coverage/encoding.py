"""Pixels and samples to files, as small and as repeatable as each codec allows.

Pillow, PyAV and soundfile are imported where they are used: only who makes the media anew needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np

from ming_eval.coverage.drawing import Pixels
from ming_eval.coverage.sounds import RATE_HZ, Samples, as_int16
from ming_eval.metrics.audio import PcmFormat, wav_header

FRAMES_PER_S = 12


@dataclass(frozen=True, slots=True)
class MediaFile:
    """An encoded file and what is in it; sizes are None where the kind of media has none."""

    data: bytes
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


def png(pixels: Pixels) -> MediaFile:
    """A PNG image."""
    return _image(pixels, "PNG", optimize=True)


def jpeg(pixels: Pixels) -> MediaFile:
    """A JPEG image."""
    return _image(pixels, "JPEG", quality=85, optimize=True)


def wav(samples: Samples) -> MediaFile:
    """PCM16, one channel, 16 kHz."""
    data = as_int16(samples).astype("<i2").tobytes()
    return MediaFile(wav_header(PcmFormat(RATE_HZ), len(data)) + data, duration_s=len(samples) / RATE_HZ)


def flac(samples: Samples) -> MediaFile:
    """FLAC, one channel, 16 kHz."""
    return _audio(samples, "FLAC", "PCM_16")


def mp3(samples: Samples) -> MediaFile:
    """MP3, one channel, 16 kHz."""
    return _audio(samples, "MP3", "MPEG_LAYER_III")


def mp4(frames: Sequence[Pixels], sound: Samples) -> MediaFile:
    """H.264 and AAC at 12 frames per second."""
    # Constant quantiser: x264's adaptive ones give other bytes from one process to the next.
    return _video(frames, sound, "mp4", "libx264", "aac", RATE_HZ, {"qp": "24"})


def webm(frames: Sequence[Pixels], sound: Samples) -> MediaFile:
    """VP9 and Opus at 12 frames per second."""
    return _video(frames, sound, "webm", "libvpx-vp9", "libopus", 48_000, {"crf": "33", "b": "0"})


def _image(pixels: Pixels, fmt: str, **options: Any) -> MediaFile:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, fmt, **options)
    return MediaFile(buffer.getvalue(), width=pixels.shape[1], height=pixels.shape[0])


def _audio(samples: Samples, fmt: str, subtype: str) -> MediaFile:
    import soundfile

    buffer = BytesIO()
    soundfile.write(buffer, as_int16(samples), RATE_HZ, format=fmt, subtype=subtype)
    return MediaFile(buffer.getvalue(), duration_s=len(samples) / RATE_HZ)


def _video(
    frames: Sequence[Pixels],
    sound: Samples,
    container_format: str,
    video_codec: str,
    audio_codec: str,
    audio_rate_hz: int,
    options: dict[str, str],
) -> MediaFile:
    import av

    height, width, _ = frames[0].shape
    buffer = BytesIO()
    # bitexact: no random ids, no versions; one thread: how work is split changes the result.
    with av.open(buffer, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(video_codec, rate=FRAMES_PER_S, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream(audio_codec, rate=audio_rate_hz, layout="mono")
        for stream in (video, audio):
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode())
        container.mux(audio.encode(_audio_frame(sound)))
        container.mux(audio.encode())
    return MediaFile(buffer.getvalue(), width, height, len(frames) / FRAMES_PER_S)


def _audio_frame(sound: Samples) -> Any:
    """All of the sound; PyAV brings it to the rate and the frame size of the codec."""
    import av

    frame = av.AudioFrame.from_ndarray(as_int16(sound)[np.newaxis], "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
    return frame
