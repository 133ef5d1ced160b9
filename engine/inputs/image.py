"""Pixels to patches, as the released image processor makes them.

Two steps resize an image: the loader's (`smart_resize`) and the processor's (`processor_smart_resize`), which
changes nothing after the first unless a request overrides its limits.

Patches stay 8 bits wide on their way to the model: a quarter of the bytes, and `normalise` (or the same table
look-up on another device, see `pixel_table`) gives exactly the released float32 values from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import InvalidRequest
from engine.inputs.extra import engine_extra
from engine.inputs.pixels import pixel_table
from engine.inputs.processor_config import Grid, ImageProcessorConfig

with engine_extra("pillow"):
    from PIL import Image

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Size = tuple[int, int]  # height, width

MIN_PIXELS = 4 * 1024
MAX_PIXELS = 16384 * 1024
MAX_RATIO = 200


@dataclass(frozen=True, slots=True)
class SizeOverrides:
    """What a caller may choose about one medium; `resized_*` work together and replace the other limits.

    `total_pixels` is the budget of a whole video, and there `max_pixels` has no influence; both as released.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None

    @property
    def resized(self) -> Size | None:
        """The size that was asked for, if any; it is still rounded to whole tokens."""
        if self.resized_height is None or self.resized_width is None:
            return None
        return self.resized_height, self.resized_width


def smart_resize(
    height: int, width: int, *, factor: int = 32, min_pixels: float = MIN_PIXELS, max_pixels: float = MAX_PIXELS
) -> Size:
    """The loader's size: multiples of `factor`, an area within the limits, the ratio nearly kept.

    Raises:
        InvalidRequest: one side is more than 200 times the other, or would vanish at this area.
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise InvalidRequest(
            f"media of {width}x{height} pixels is too narrow; the ratio limit is {MAX_RATIO}", code="invalid_media"
        )
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    size = _fit_area(height, width, (rows, columns), factor, min_pixels, max_pixels)
    if not all(size):
        raise InvalidRequest(f"media of {width}x{height} pixels is too narrow to be scaled down", code="invalid_media")
    return size


def processor_smart_resize(
    height: int, width: int, *, factor: int = 32, min_pixels: float = MIN_PIXELS, max_pixels: float = MAX_PIXELS
) -> Size:
    """The processor's size: as `smart_resize`, except where a side is clamped to `factor`."""
    rounded = round(height / factor) * factor, round(width / factor) * factor
    rows, columns = _fit_area(height, width, rounded, factor, min_pixels, max_pixels)
    return max(factor, rows), max(factor, columns)


def _fit_area(height: int, width: int, rounded: Size, factor: int, min_pixels: float, max_pixels: float) -> Size:
    area = rounded[0] * rounded[1]
    if area > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        return math.floor(height / beta / factor) * factor, math.floor(width / beta / factor) * factor
    if area < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        return math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return rounded


def image_size(height: int, width: int, config: ImageProcessorConfig, overrides: SizeOverrides | None = None) -> Size:
    """Size after the loader's step, with a caller's overrides."""
    overrides = overrides or SizeOverrides()
    if overrides.resized:
        return smart_resize(*overrides.resized, factor=config.factor)
    return smart_resize(
        height,
        width,
        factor=config.factor,
        min_pixels=overrides.min_pixels or MIN_PIXELS,
        max_pixels=overrides.max_pixels or MAX_PIXELS,
    )


def resize_image(
    image: Image.Image, config: ImageProcessorConfig, overrides: SizeOverrides | None = None
) -> Image.Image:
    """Both released steps, each Pillow's antialiased bicubic; `image` is RGB."""
    loaded = _bicubic(image, image_size(image.height, image.width, config, overrides))
    return _bicubic(loaded, processor_smart_resize(loaded.height, loaded.width, factor=config.factor))


def _bicubic(image: Image.Image, size: Size) -> Image.Image:
    height, width = size
    return image.resize((width, height), Image.Resampling.BICUBIC)


def image_patches(
    image: Image.Image, config: ImageProcessorConfig, overrides: SizeOverrides | None = None
) -> tuple[U8, Grid]:
    """An RGB image of any size to 8-bit patches [P, M] in merge order, and its grid (1, h, w)."""
    pixels = np.asarray(resize_image(image, config, overrides))
    return patchify(pixels[None], config)


def preprocess_image(
    image: Image.Image, config: ImageProcessorConfig, overrides: SizeOverrides | None = None
) -> tuple[F32, Grid]:
    """An RGB image of any size to pixel values [P, M] in merge order, and its grid (1, h, w)."""
    patches, grid = image_patches(image, config, overrides)
    return normalise(patches, config), grid


def patchify(frames: U8, config: ImageProcessorConfig) -> tuple[U8, Grid]:
    """Frames [F, height, width, 3], the last one repeated up to whole temporal patches, to patches [P, M] and a grid.

    Patches are in merge order, the four (merge_size ** 2) of a token one after the other. Inside a patch the order is
    channel, frame, row, column.
    """
    depth, patch, merge = config.temporal_patch_size, config.patch_size, config.merge_size
    t, h, w = -(-len(frames) // depth), frames.shape[1] // patch, frames.shape[2] // patch
    patches = np.empty((t, h // merge, w // merge, merge, merge, 3, depth, patch, patch), np.uint8)
    for index in range(t * depth):
        planes = np.ascontiguousarray(frames[min(index, len(frames) - 1)].transpose(2, 0, 1))
        blocks = planes.reshape(3, h // merge, merge, patch, w // merge, merge, patch)
        patches[index // depth, ..., index % depth, :, :] = blocks.transpose(1, 4, 2, 5, 0, 3, 6)
    return patches.reshape(t * h * w, -1), (t, h, w)


def normalise(patches: U8, config: ImageProcessorConfig) -> F32:
    """8-bit patches [P, M] to the model's pixel values, float32 [P, M]."""
    by_channel = patches.reshape(len(patches), 3, -1)
    table = pixel_table(config)
    values = np.empty(by_channel.shape, np.float32)
    for channel in range(3):
        np.take(table[channel], by_channel[:, channel], out=values[:, channel])
    return values.reshape(patches.shape)
