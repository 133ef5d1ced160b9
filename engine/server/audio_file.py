"""16-bit mono samples as a file in the format that a client asked for."""

from __future__ import annotations

import importlib.util
import struct
from io import BytesIO
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from engine.errors import InvalidRequest
from engine.inputs.resample import resample
from engine.server.jsonbody import quoted

AudioFormat = Literal["wav", "pcm", "flac", "mp3", "opus"]
MEDIA_TYPES: dict[AudioFormat, str] = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
}
HEADER_BYTES = 44
RATE_HEADER = "X-Audio-Sample-Rate"

_OPEN_SIZE = 0xFFFFFFFF  # what players take for "until the end of the stream"
_OPUS_RATE_HZ = 48_000  # it knows no rate of compact discs
_CODECS: dict[AudioFormat, tuple[str, str]] = {
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}


def check_format(name: str, param: str, *, stream: bool) -> AudioFormat:
    """The format with this name; `pcm16` is `pcm`.

    Raises:
        InvalidRequest: it does not exist, its encoder is missing here, or it cannot be streamed.
    """
    wanted = "pcm" if name == "pcm16" else name
    formats: tuple[AudioFormat, ...] = get_args(AudioFormat)
    usable = [fmt for fmt in formats if _is_available(fmt) and (not stream or fmt in ("wav", "pcm"))]
    for fmt in usable:
        if fmt == wanted:
            return fmt
    how = "a streamed answer can be" if stream else "this server writes"
    raise InvalidRequest(f"{param} {quoted(name)}: {how} {', '.join(usable)}", param=param)


def encode_audio(pcm: bytes, rate_hz: int, fmt: AudioFormat) -> bytes:
    """A complete file. Opus is resampled to 48 kHz, all others keep the rate."""
    if fmt == "pcm":
        return pcm
    if fmt == "wav":
        return wav_header(rate_hz, len(pcm)) + pcm
    import soundfile  # only where it is needed: text must not pay for it

    container, codec = _CODECS[fmt]
    samples: npt.NDArray[np.int16] | npt.NDArray[np.float32] = np.frombuffer(pcm, "<i2")
    own_hz = file_rate(rate_hz, fmt)
    if own_hz != rate_hz:
        samples = resample((samples / 32768).astype(np.float32), rate_hz, own_hz)
    file = BytesIO()
    soundfile.write(file, samples, own_hz, format=container, subtype=codec)
    return file.getvalue()


def file_rate(rate_hz: int, fmt: AudioFormat) -> int:
    """The rate of a complete file whose samples were made at `rate_hz`."""
    return _OPUS_RATE_HZ if fmt == "opus" else rate_hz


def wav_header(rate_hz: int, num_bytes: int | None) -> bytes:
    """The header of a WAV file; `num_bytes` of samples None is a stream whose length is not known yet."""
    data = _OPEN_SIZE if num_bytes is None else num_bytes
    whole = _OPEN_SIZE if num_bytes is None else num_bytes + HEADER_BYTES - 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + form + struct.pack("<4sI", b"data", data)


def _is_available(fmt: AudioFormat) -> bool:
    if fmt not in _CODECS:
        return True
    if importlib.util.find_spec("soundfile") is None:
        return False
    import soundfile

    return bool(soundfile.check_format(*_CODECS[fmt]))
