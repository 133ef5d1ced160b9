"""Audio files to the samples of their first channel.

libsndfile reads nearly everything; FFmpeg takes the rest (a WAV or Ogg file with a codec that libsndfile lacks).
Length is counted while decoding, since the header's own figure is only a claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt

from engine.inputs.audio import check_duration
from engine.inputs.extra import engine_extra
from engine.inputs.media import invalid_media, undecodable
from engine.inputs.sniff import Format

with engine_extra("av"):
    import av

with engine_extra("soundfile"):
    import soundfile

F32 = npt.NDArray[np.float32]

RATES_HZ = range(8_000, 192_001)
CHANNELS = range(1, 9)
_BLOCK = 1 << 16

_AV_CODECS = frozenset(
    {
        "mp3",
        "flac",
        "vorbis",
        "opus",
        "speex",
        "adpcm_ms",
        "adpcm_ima_wav",
        "adpcm_yamaha",
        "gsm_ms",
        "pcm_alaw",
        "pcm_mulaw",
    }
    | {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"}
)
_OPTIONS = {"codec_whitelist": ",".join(sorted(_AV_CODECS)), "protocol_whitelist": "none"}
_READER_ERRORS = (
    *(soundfile.SoundFileError, av.FFmpegError),
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError),
)


def read_audio(data: bytes, fmt: Format) -> tuple[F32, int]:
    """Samples [n] of the first channel in -1..1, and their rate in Hz.

    Raises:
        InvalidRequest: damaged or without samples, a rate or channel count that is not accepted, more than 300 s.
    """
    try:
        file = soundfile.SoundFile(BytesIO(data))
    except _READER_ERRORS:
        return _read_with_ffmpeg(data, fmt)
    with file:
        _check_header(file.samplerate, file.channels)
        return _collect(_soundfile_blocks(file), file.samplerate), file.samplerate


def _soundfile_blocks(file: soundfile.SoundFile) -> Iterator[F32]:
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block[:, 0]


def _read_with_ffmpeg(data: bytes, fmt: Format) -> tuple[F32, int]:
    try:
        container = av.open(BytesIO(data), format=fmt, options=_OPTIONS)
    except _READER_ERRORS:
        raise undecodable("audio") from None
    with container:
        if not container.streams.audio:
            raise undecodable("audio")
        codec = container.streams.audio[0].codec_context
        if codec is None or codec.name not in _AV_CODECS:
            raise undecodable("audio")
        _check_header(codec.sample_rate, codec.channels)
        return _collect(_ffmpeg_blocks(container), codec.sample_rate), codec.sample_rate


def _ffmpeg_blocks(container: av.container.InputContainer) -> Iterator[F32]:
    resampler = av.AudioResampler(format="fltp")  # one plane of float32 for each channel, rate and layout as they are
    for frame in container.decode(audio=0):
        for planar in resampler.resample(frame):
            yield planar.to_ndarray()[0]


def _check_header(rate_hz: int, num_channels: int) -> None:
    if rate_hz not in RATES_HZ:
        raise invalid_media(f"the audio has {rate_hz} samples a second; accepted are {RATES_HZ[0]} to {RATES_HZ[-1]}")
    if num_channels not in CHANNELS:
        raise invalid_media(f"the audio has {num_channels} channels; accepted are {CHANNELS[0]} to {CHANNELS[-1]}")


def _collect(blocks: Iterable[F32], rate_hz: int) -> F32:
    kept: list[F32] = []
    num_samples = 0
    remaining = iter(blocks)
    while (block := _next_block(remaining)) is not None:
        num_samples += len(block)
        check_duration(num_samples, rate_hz)
        kept.append(block.copy())  # a view would keep the other channels alive
    if not num_samples:
        raise invalid_media("the audio has no samples")
    return np.concatenate(kept)


def _next_block(blocks: Iterator[F32]) -> F32 | None:
    """One step of the decoder; only its own failures are turned into a refusal."""
    try:
        return next(blocks, None)
    except _READER_ERRORS:
        raise undecodable("audio") from None
