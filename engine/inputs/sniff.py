"""The real type of a file from its first bytes, held against what the sender claims and what is wanted."""

from __future__ import annotations

import re
from typing import Literal

from engine.core.request import MediaKind
from engine.inputs.media import ACCEPTED, invalid_media

Format = Literal["png", "jpeg", "webp", "gif", "bmp", "wav", "mp3", "flac", "ogg", "mp4", "webm"]

FORMATS: dict[MediaKind, frozenset[Format]] = {
    "image": frozenset({"png", "jpeg", "webp", "gif", "bmp"}),
    "audio": frozenset({"wav", "mp3", "flac", "ogg"}),
    "video": frozenset({"mp4", "webm"}),
}

_SIGNATURES: tuple[tuple[Format, re.Pattern[bytes]], ...] = (
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("jpeg", re.compile(rb"\xff\xd8\xff")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("gif", re.compile(rb"GIF8[79]a")),
    ("bmp", re.compile(rb"BM.{8}", re.DOTALL)),
    ("wav", re.compile(rb"RIFF....WAVE", re.DOTALL)),
    ("flac", re.compile(rb"fLaC")),
    ("ogg", re.compile(rb"OggS")),
    ("mp3", re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")),  # a tag, or a frame header of layer III
    ("mp4", re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip)", re.DOTALL)),  # MOV need not have a type box
    ("webm", re.compile(rb"\x1aE\xdf\xa3.{0,60}?\x42\x82\x84webm", re.DOTALL)),  # the DocType element
)

_MIME_FORMATS: dict[str, Format] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/x-ms-bmp": "bmp",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/ogg": "ogg",
    "application/ogg": "ogg",
    "video/mp4": "mp4",
    "video/quicktime": "mp4",  # one container family, and senders confuse its names
    "video/webm": "webm",
}
_NO_CLAIM = frozenset({"", "application/octet-stream", "binary/octet-stream"})


def sniff(data: bytes) -> Format | None:
    """The format that the first bytes announce, None for any that is not accepted."""
    return next((name for name, signature in _SIGNATURES if signature.match(data)), None)


def check_type(kind: MediaKind, data: bytes, mime: str | None, formats: frozenset[Format] | None = None) -> Format:
    """The format of a file of this kind.

    Raises:
        InvalidRequest: it is none of the accepted formats, or another one than `mime` claims.
    """
    found = sniff(data)
    if found is None or found not in (formats or FORMATS[kind]):
        raise invalid_media(f"the {kind} has none of the accepted types: {ACCEPTED[kind]}")
    claim = (mime or "").partition(";")[0].strip().lower()
    if claim not in _NO_CLAIM and _MIME_FORMATS.get(claim) != found:
        raise invalid_media(f"the {kind} is not of its declared type {claim[:100]!r}; declare the real one")
    return found
