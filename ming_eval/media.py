"""Kinds of media files: what a file name says about its content. Pure, no network."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

Kind = Literal["image", "audio", "video"]

MEDIA_TYPES: dict[str, tuple[Kind, str]] = {  # suffix: (kind, MIME type)
    ".png": ("image", "image/png"),
    ".jpg": ("image", "image/jpeg"),
    ".jpeg": ("image", "image/jpeg"),
    ".webp": ("image", "image/webp"),
    ".wav": ("audio", "audio/wav"),
    ".mp3": ("audio", "audio/mpeg"),
    ".flac": ("audio", "audio/flac"),
    ".ogg": ("audio", "audio/ogg"),
    ".mp4": ("video", "video/mp4"),
    ".webm": ("video", "video/webm"),
}


def media_type(name: str) -> tuple[Kind, str] | None:
    """Kind and MIME type of a file with this name, None for a suffix that is not known."""
    return MEDIA_TYPES.get(PurePath(name).suffix.lower())


def suffix_of(mime: str) -> str:
    """What the name of a file of this type ends in."""
    return next((suffix for suffix, (_, known) in MEDIA_TYPES.items() if known == mime), ".bin")
