"""A video's length, and single frames of it as images: sampling on the client's side."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ming_eval.errors import DataError
from ming_eval.evals.optional import require
from ming_eval.types import Media

_PURPOSE = "sampling frames of videos"


def duration_s(path: Path) -> float:
    """How long a video lasts, in seconds.

    Raises:
        DataError: the file is no video.
        UsageError: PyAV is not installed.
    """
    av = require("av", purpose=_PURPOSE)
    try:
        with av.open(str(path)) as container:
            if container.duration is None:
                raise DataError(f"{path} does not say how long it is")
            return float(container.duration) / 1_000_000
    except av.error.InvalidDataError as exc:
        raise DataError(f"{path} is no video: {exc}") from exc


def slice_centres(count: int, length_s: float) -> list[float]:
    """The centres of `count` equal slices of a time, in seconds."""
    return [length_s * (index + 0.5) / count for index in range(count)]


def frames_at(path: Path, times_s: Sequence[float], height: int | None) -> tuple[Media, ...]:
    """The frame that is on screen at each time, as a JPEG image, scaled to `height` pixels where it is higher.

    Raises:
        DataError: the file is no video.
        UsageError: PyAV or Pillow is not installed.
    """
    av = require("av", purpose=_PURPOSE)
    try:
        with av.open(str(path)) as container:
            return tuple(_jpeg(frame, height) for frame in _shown_at(container, times_s))
    except av.error.InvalidDataError as exc:
        raise DataError(f"{path} is no video: {exc}") from exc


def _shown_at(container: Any, times_s: Sequence[float]) -> list[Any]:
    """One pass over the frames; a time after the last frame gets the last one."""
    shown: list[Any] = []
    current = None
    for frame in container.decode(video=0):
        while current is not None and len(shown) < len(times_s) and times_s[len(shown)] < frame.time:
            shown.append(current)
        current = frame
    return shown + [current] * (len(times_s) - len(shown)) if current is not None else []


def _jpeg(frame: Any, height: int | None) -> Media:
    image = frame.to_image()
    if height is not None and image.height > height:
        image = image.resize((round(image.width * height / image.height), height))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return Media("image", buffer.getvalue(), "image/jpeg")
