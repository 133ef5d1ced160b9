"""Frames to timestamped pairs of patches, as released: which frames, at which size, at which time.

Frames are resized by OpenCV's bicubic filter, which does not smooth before it shrinks (images are resized by
Pillow's, which does).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from engine.inputs.extra import engine_extra
from engine.inputs.image import U8, Size, SizeOverrides, normalise, patchify, smart_resize
from engine.inputs.processor_config import Grid, ImageProcessorConfig

with engine_extra("opencv-python-headless"):
    import cv2

with engine_extra("pillow"):
    from PIL import Image

F32 = npt.NDArray[np.float32]

MAX_FPS = 2.0
MAX_FRAMES = 170
MIN_PIXELS = 128 * 1024
TOTAL_PIXELS = 96 * 128 * 1024

LIST_FPS = 2.0  # nominal rate of a list of frames
MAX_LIST_FRAMES = 256  # the released budget for lists counts no more


@dataclass(frozen=True, slots=True)
class Sampling:
    """Frames of the source to use, in order, and how many of them stand for a second."""

    indices: tuple[int, ...]
    fps: float


def sample_frames(num_frames: int, fps: float) -> Sampling:
    """At most two frames a second and 170 in all, evenly spread, first and last included."""
    target_fps = min(MAX_FPS, fps)
    count = max(1, min(MAX_FRAMES, int(num_frames / fps * target_fps + 0.5)))
    indices = np.linspace(0, num_frames - 1, count, dtype=int)
    return Sampling(tuple(indices.tolist()), count / num_frames * fps)


def video_size(
    height: int, width: int, num_frames: int, config: ImageProcessorConfig, overrides: SizeOverrides | None = None
) -> Size:
    """Size of every frame when `num_frames` of them, counted before padding, share the budget of pixels."""
    overrides = overrides or SizeOverrides()
    if overrides.resized:
        return smart_resize(*overrides.resized, factor=config.factor)
    min_pixels = overrides.min_pixels or MIN_PIXELS
    budget = (overrides.total_pixels or TOTAL_PIXELS) / num_frames * config.temporal_patch_size
    max_pixels = max(budget, int(min_pixels * 1.05))
    return smart_resize(height, width, factor=config.factor, min_pixels=min_pixels, max_pixels=max_pixels)


def list_size(shapes: Sequence[Size], config: ImageProcessorConfig, overrides: SizeOverrides | None = None) -> Size:
    """Size of every frame of a list; as released, the second frame's shape decides, and an even count is budgeted."""
    counted = min(MAX_LIST_FRAMES, len(shapes))
    counted = max(1, counted - counted % config.temporal_patch_size)
    return video_size(*shapes[min(1, len(shapes) - 1)], counted, config, overrides)


def majority_shape(shapes: Sequence[Size]) -> Size:
    """The commonest shape of a list's frames, the earliest of equals; the others are brought to it first."""
    return max(shapes, key=shapes.count)


def in_shape(image: Image.Image, shape: Size) -> U8:
    """An RGB image as an array [*shape, 3], resized by Pillow's bicubic where it has another shape."""
    height, width = shape
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def resize_frame(frame: U8, size: Size) -> U8:
    """[height, width, 3] -> [*size, 3]."""
    height, width = size
    resized: U8 = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
    return resized


def frame_times_s(num_frames: int, fps: float, config: ImageProcessorConfig) -> list[float]:
    """Time of each frame, the last one repeated with the last frame up to whole temporal patches."""
    times = [index / fps for index in range(num_frames)]
    return times + times[-1:] * (-num_frames % config.temporal_patch_size)


def pair_times_s(num_frames: int, fps: float, config: ImageProcessorConfig) -> list[float]:
    """Time of each temporal patch: the mean of its frames' times."""
    times = np.array(frame_times_s(num_frames, fps, config))
    means: list[float] = times.reshape(-1, config.temporal_patch_size).mean(axis=1).tolist()
    return means


def pair_patches(frames: Iterable[U8], config: ImageProcessorConfig) -> Iterator[tuple[U8, Grid]]:
    """Resized frames to 8-bit patches [P, M] and grid (1, h, w) of each temporal patch, as the frames come."""
    remaining = iter(frames)
    for first in remaining:
        pair = list(chain([first], islice(remaining, config.temporal_patch_size - 1)))
        yield patchify(np.stack(pair), config)


def preprocess_video(
    frames: Sequence[U8], fps: float, config: ImageProcessorConfig, overrides: SizeOverrides | None = None
) -> tuple[F32, Grid, list[float]]:
    """Sampled RGB frames to pixel values [P, M], grid (t, h, w) and the time of each of the t pairs in seconds."""
    height, width = frames[0].shape[:2]
    size = video_size(height, width, len(frames), config, overrides)
    pairs = list(pair_patches((resize_frame(frame, size) for frame in frames), config))
    patches = np.concatenate([patch for patch, _ in pairs])
    _, h, w = pairs[0][1]
    return normalise(patches, config), (len(pairs), h, w), pair_times_s(len(frames), fps, config)
