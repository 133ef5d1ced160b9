"""Image files to RGB pixels; size and kind are checked from the header before anything is decoded."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO

from engine.inputs.extra import engine_extra
from engine.inputs.image import MAX_RATIO
from engine.inputs.media import invalid_media, media_too_large, undecodable
from engine.inputs.sniff import Format

with engine_extra("pillow"):
    from PIL import Image

MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384

# What Pillow's readers raise on damaged files; each is a fact about the file.
_READER_ERRORS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, struct.error, zlib.error),
)


def open_image(data: bytes, fmt: Format) -> Image.Image:
    """Read the header of a file of this format; `load_rgb` decodes it.

    Raises:
        InvalidRequest: the header is damaged, or the image is larger or narrower than accepted.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=(fmt.upper(),))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise media_too_large(f"the image has more than {MAX_PIXELS // 1_000_000} megapixels; scale it down") from None
    except _READER_ERRORS:
        raise undecodable("image") from None
    _check_size(image.width, image.height)
    return image


def load_rgb(image: Image.Image) -> Image.Image:
    """Decode the first frame; alpha is dropped and the orientation tag ignored, as released.

    Raises:
        InvalidRequest: the file is truncated or damaged.
    """
    try:
        return image.convert("RGB")
    except _READER_ERRORS:
        raise undecodable("image") from None


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise media_too_large(f"the image is {width}x{height} pixels; the limit is {MAX_SIDE} a side")
    if width * height > MAX_PIXELS:
        raise media_too_large(
            f"the image is {width}x{height} pixels; the limit is {MAX_PIXELS // 1_000_000} megapixels; scale it down"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise invalid_media(f"the image of {width}x{height} pixels is too narrow; the ratio limit is {MAX_RATIO}")
