"""From a file as sent to arrays for an encoder: check, decode, resize, cut. Runs inside a decode worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core.request import MediaKind
from engine.errors import InvalidRequest
from engine.inputs.audio import preprocess_audio
from engine.inputs.audio_file import read_audio
from engine.inputs.image import U8, image_patches
from engine.inputs.image_file import load_rgb, open_image
from engine.inputs.media import FRAME_LIST, EncodedMedia, MediaArray, Preprocessed, invalid_media, media_too_large
from engine.inputs.mel import SAMPLE_RATE_HZ
from engine.inputs.processor_config import Grid, ImageProcessorConfig, MediaConfig
from engine.inputs.resample import resample
from engine.inputs.sniff import Format, check_type
from engine.inputs.video import (
    LIST_FPS,
    MAX_LIST_FRAMES,
    in_shape,
    list_size,
    majority_shape,
    pair_patches,
    pair_times_s,
    resize_frame,
    sample_frames,
    video_size,
)
from engine.inputs.video_file import MAX_SIDE, VideoFile

MAX_CLIP_PEAK = 10.0  # floats may exceed full scale a little; 16-bit numbers stored as floats would overflow
MAX_CLIP_S = 30  # of a reference clip: its patches stand in the prompt of every segment

_JPEG: frozenset[Format] = frozenset({"jpeg"})


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What becomes a `MediaArray`; audio has no grid, only frame pairs have a time."""

    values: npt.NDArray[Any]
    num_tokens: int
    grid: Grid | None = None
    timestamp_s: float | None = None


def preprocess(kind: MediaKind, media: EncodedMedia, config: MediaConfig) -> Preprocessed:
    """Arrays for the encoder of this kind.

    Raises:
        InvalidRequest: of code invalid_media, media_too_large or audio_too_long.
    """
    source = _digest(kind.encode(), *map(_digest, media.parts))
    chunks = _frame_list(media, config.image) if _is_frame_list(kind, media) else _file(kind, media, config)
    return Preprocessed(kind, tuple(_array(chunk, source, index) for index, chunk in enumerate(chunks)))


def reference_clip(media: EncodedMedia, rate_hz: int) -> Preprocessed:
    """A clip whose voice is to be copied, as float32 samples [n] at `rate_hz`, then at 16 kHz for a speaker encoder.

    Raises:
        InvalidRequest: of code invalid_media or audio_too_long.
    """
    if len(media.parts) != 1:
        raise invalid_media("the reference clip is a list of files")
    data = media.parts[0]
    samples, own_hz = read_audio(data, check_type("audio", data, media.mime))
    if len(samples) > MAX_CLIP_S * own_hz:
        message = f"the reference clip has {len(samples) / own_hz:.2f} s; at most {MAX_CLIP_S} s are taken"
        raise InvalidRequest(message, code="audio_too_long")
    if not np.isfinite(samples).all():
        raise invalid_media("the reference clip has samples that are no finite numbers")
    if (peak := float(np.abs(samples).max())) > MAX_CLIP_PEAK:
        raise invalid_media(f"the reference clip has samples of up to {peak:.3g}; full scale is 1")
    source = _digest(b"clip", data)
    chunks = (_Chunk(resample(samples, own_hz, hz), num_tokens=0) for hz in (rate_hz, SAMPLE_RATE_HZ))
    return Preprocessed("audio", tuple(_array(chunk, source, index) for index, chunk in enumerate(chunks)))


def _is_frame_list(kind: MediaKind, media: EncodedMedia) -> bool:
    return kind == "video" and media.mime == FRAME_LIST


def _file(kind: MediaKind, media: EncodedMedia, config: MediaConfig) -> Iterator[_Chunk]:
    if len(media.parts) != 1:
        raise invalid_media(f"the {kind} is a list of files; only the frames of a video can be sent as one")
    data = media.parts[0]
    return _CHUNKS[kind](data, check_type(kind, data, media.mime), config)


def _image(data: bytes, fmt: Format, config: MediaConfig) -> Iterator[_Chunk]:
    patches, grid = image_patches(load_rgb(open_image(data, fmt)), config.image)
    yield _Chunk(patches, config.image.num_tokens(grid), grid)


def _audio(data: bytes, fmt: Format, config: MediaConfig) -> Iterator[_Chunk]:
    yield _Chunk(*preprocess_audio(*read_audio(data, fmt), config.audio))


def _video(data: bytes, fmt: Format, config: MediaConfig) -> Iterator[_Chunk]:
    with VideoFile(data, fmt) as video:
        sampling = sample_frames(video.num_frames, video.fps)
        size = video_size(video.height, video.width, len(sampling.indices), config.image)
        frames = (resize_frame(frame, size) for frame in video.frames(sampling.indices))
        yield from _pairs(frames, pair_times_s(len(sampling.indices), sampling.fps, config.image), config.image)


_CHUNKS = {"image": _image, "audio": _audio, "video": _video}


def _frame_list(media: EncodedMedia, config: ImageProcessorConfig) -> Iterator[_Chunk]:
    """Headers of all frames first, then one frame at a time."""
    if len(media.parts) > MAX_LIST_FRAMES:
        raise media_too_large(f"the video is a list of {len(media.parts)} frames; the limit is {MAX_LIST_FRAMES}")
    images = [open_image(data, check_type("video", data, None, _JPEG)) for data in media.parts]
    shapes = [(image.height, image.width) for image in images]
    largest = max(max(shape) for shape in shapes)
    if largest > MAX_SIDE:
        raise media_too_large(f"a frame of the video has a side of {largest} pixels; the limit is {MAX_SIDE}")
    shape, size = majority_shape(shapes), list_size(shapes, config)
    images.reverse()  # popped one by one, so that decoded pixels are freed
    frames = (resize_frame(in_shape(load_rgb(images.pop()), shape), size) for _ in shapes)
    return _pairs(frames, pair_times_s(len(shapes), LIST_FPS, config), config)


def _pairs(frames: Iterable[U8], times_s: Iterable[float], config: ImageProcessorConfig) -> Iterator[_Chunk]:
    for (patches, grid), time_s in zip(pair_patches(frames, config), times_s, strict=True):
        yield _Chunk(patches, config.num_tokens(grid), grid, time_s)


def _array(chunk: _Chunk, source: bytes, index: int) -> MediaArray:
    """The digest is made from the file: preprocessing is a function of it, and files are far smaller than pixels."""
    return MediaArray(
        shape=chunk.values.shape,
        dtype=chunk.values.dtype.name,
        data=chunk.values.tobytes(),
        grid=chunk.grid,
        num_tokens=chunk.num_tokens,
        digest=_digest(source, str(index).encode()),
        timestamp_s=chunk.timestamp_s,
    )


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"|".join(parts)).digest()
