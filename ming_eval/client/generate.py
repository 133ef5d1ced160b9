"""M*'s own API, `POST /generate`: a form with text and files goes out, lines of JSON with base64 come back. Pure.

From the server's published source: each line is one piece of one modality, audio is PCM16 at the rate in its metadata;
there is no usage, no finish reason, and nothing behind the last piece.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ming_eval.errors import DataError
from ming_eval.types import Event, EventKind, Media, Request, Text

_BOUNDARY = "ming-eval-3d1c07a45be94c0f8a6f"
CONTENT_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"

# The server knows a file's kind by its name.
_SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


def encode_form(request: Request) -> bytes:
    """The form of one request.

    Raises:
        DataError: it holds more than one turn, or media of a type that has no file name here.
    """
    if len(request.messages) != 1:
        raise DataError("M*'s /generate takes one user message and no history: use --dialect mstar")
    parts = request.messages[0].parts
    text = "".join(part.text for part in parts if isinstance(part, Text))
    fields = {
        "text": text,
        "output_modalities": "text,audio" if request.wants_audio else "text",
        "streaming": "true" if request.stream else "false",
        "model_kwargs": msgspec.json.encode(_options(request)).decode(),
    }
    body = b"".join(_field(f'name="{name}"', value.encode()) for name, value in fields.items() if value)
    for number, media in enumerate(part for part in parts if isinstance(part, Media)):
        place = f'name="files"; filename="{media.kind}{number}.{_suffix(media)}"\r\nContent-Type: {media.mime}'
        body += _field(place, media.data)
    return body + f"--{_BOUNDARY}--\r\n".encode()


def _options(request: Request) -> dict[str, Any]:
    known = {
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "voice": request.voice if request.wants_audio else None,
    }
    return {name: value for name, value in known.items() if value is not None} | dict(request.extra)


def _field(place: str, value: bytes) -> bytes:
    return b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (_BOUNDARY.encode(), place.encode(), value)


def _suffix(media: Media) -> str:
    if media.mime not in _SUFFIXES:
        raise DataError(f"cannot send {media.kind} of type {media.mime!r} to /generate: convert it to PNG, WAV or MP4")
    return _SUFFIXES[media.mime]


class _Metadata(msgspec.Struct, gc=False):
    sample_rate: int | None = None


class _Piece(msgspec.Struct, gc=False):
    """One output; `modality` stands in the line of a stream, and around the pieces of a whole reply."""

    data: str = ""
    modality: str | None = None
    metadata: _Metadata | None = None


class _Line(_Piece, gc=False):
    error: Any = None
    detail: Any = None


class _Whole(msgspec.Struct, gc=False):
    outputs: Mapping[str, list[_Piece]] | None = None
    error: Any = None
    detail: Any = None


_LINES = msgspec.json.Decoder(_Line)
_WHOLES = msgspec.json.Decoder(_Whole)


def decode_line(data: bytes, time_s: float) -> tuple[list[Event], Any]:
    """The events of one streamed line, and the error that it holds, None where it holds none.

    Raises:
        ValueError: `data` is no such line.
    """
    line = _LINES.decode(data)
    return list(_events(line.modality, [line], time_s)), line.error or line.detail


def decode_outputs(data: bytes, time_s: float) -> tuple[list[Event], Any]:
    """As `decode_line`, for a whole reply."""
    whole = _WHOLES.decode(data)
    outputs = whole.outputs or {}
    events = [event for name, pieces in outputs.items() for event in _events(name, pieces, time_s)]
    return events, whole.error or whole.detail


def _events(modality: str | None, pieces: Iterable[_Piece], time_s: float) -> Iterator[Event]:
    for piece in pieces:
        content = binascii.a2b_base64(piece.data, strict_mode=True)
        if modality == "audio" and content:
            rate_hz = piece.metadata.sample_rate if piece.metadata else None
            yield Event(EventKind.AUDIO, time_s, audio=content, sample_rate_hz=rate_hz)
        elif modality == "text" and content:
            yield Event(EventKind.TEXT, time_s, content.decode("utf-8", "replace"))
