"""Video files to the RGB frames that are wanted, one at a time.

The file is read twice: once without decoding, for the time of every frame and where decoding can start, then to
decode what the wanted frames need. No frame is kept here, and the audio track is never decoded.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from engine.inputs.extra import engine_extra
from engine.inputs.image import U8
from engine.inputs.media import invalid_media, media_too_large, undecodable
from engine.inputs.sniff import Format

with engine_extra("av"):
    import av

MAX_DURATION_S = 600
MAX_SIDE = 4096
MAX_SOURCE_FPS = 240
NUM_THREADS = 4  # decoding; each thread keeps frames of its own

_CODECS = {"h264": "h264", "hevc": "hevc", "vp8": "vp8", "vp9": "vp9", "av1": "av1"}
_CODECS |= {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}  # decoders named for their library
_OPTIONS = {"codec_whitelist": ",".join(_CODECS), "protocol_whitelist": "none"}  # nothing beside the file is opened
_READER_ERRORS = (
    *(av.FFmpegError, ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class _Index:
    """Presentation times of all frames and of the key frames among them, rising, in units of the stream."""

    times: Sequence[int]
    key_times: Sequence[int]
    duration_s: float


class VideoFile:
    """An open video with its frame count and rate; use it as a context manager.

    Raises:
        InvalidRequest: from every method, when the file is damaged, not of an accepted codec, empty or too large.
    """

    def __init__(self, data: bytes, fmt: Format) -> None:
        with _refusals():
            self._container = av.open(BytesIO(data), format=fmt, options=_OPTIONS, metadata_errors="replace")
        try:
            self._stream = self._open_stream()
            self._index = self._scan()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self._index.times)

    @property
    def fps(self) -> float:
        """Mean rate in frames per second, at most 240 where the duration is implausible."""
        rate = self.num_frames / self._index.duration_s if self._index.duration_s > 0 else MAX_SOURCE_FPS
        return min(rate, MAX_SOURCE_FPS)

    @property
    def height(self) -> int:
        """Height in the header, in pixels."""
        return int(self._stream.codec_context.height)

    @property
    def width(self) -> int:
        """Width in the header, in pixels."""
        return int(self._stream.codec_context.width)

    def frames(self, indices: Sequence[int]) -> Iterator[U8]:
        """RGB frames [height, width, 3] at these rising indices.

        Decoding restarts at the key frame nearest before a wanted frame where that is ahead. A frame that the file
        announces and the decoder does not give is replaced by the next one, at the end by the last.
        """
        wanted = [self._index.times[index] for index in indices]
        decoder: Iterator[Any] = iter(())
        current: Any = None
        for time in wanted:
            start = self._key_time_before(time)
            if current is None or current.pts < start:
                decoder = self._decode_from(start, frozenset(wanted))
            while current is None or current.pts < time:
                found = self._next(decoder)
                if found is None:
                    break
                current = found
            if current is None:
                raise undecodable("video")
            yield self._to_rgb(current)

    def _open_stream(self) -> Any:
        if not self._container.streams.video:
            raise invalid_media("the video has no picture track")
        stream = self._container.streams.video[0]
        if stream.codec_context is None or stream.codec_context.name not in _CODECS:
            raise invalid_media("the video's codec is not accepted; use H.264, HEVC, VP8, VP9 or AV1")
        # Frames of VP9 in threads of their own can wait for each other for ever (FFmpeg 8, seen on busy machines).
        stream.thread_type = "SLICE" if stream.codec_context.name == "vp9" else "AUTO"
        stream.codec_context.thread_count = NUM_THREADS
        _check_sides(stream.codec_context.width, stream.codec_context.height)
        return stream

    def _scan(self) -> _Index:
        """Read all packets without decoding them."""
        times: list[int] = []
        keys: list[int] = []
        with _refusals():
            unit = self._stream.time_base
            end = -math.inf
            for packet in filter(self._is_shown, self._container.demux(self._stream)):
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
                if (end - times[0]) * unit > MAX_DURATION_S or len(times) > MAX_DURATION_S * MAX_SOURCE_FPS:
                    raise media_too_large(f"the video is longer than {MAX_DURATION_S // 60} minutes; send a part of it")
        if not times:
            raise invalid_media("the video has no frames")
        times.sort()
        return _Index(times, sorted(keys), float((end - times[0]) * unit))

    def _is_shown(self, packet: Any) -> bool:
        if packet.pts is None or not packet.size or packet.is_discard:
            return False
        # VP8 stores frames that are only referred to as packets of their own; bit 4 is set in those that are shown.
        hidden = _CODECS[self._stream.codec_context.name] == "vp8" and not bytes(packet)[0] >> 4 & 1
        return not hidden

    def _key_time_before(self, time: int) -> int:
        place = bisect_right(self._index.key_times, time)
        return self._index.key_times[place - 1] if place else self._index.times[0]

    def _decode_from(self, start: int, wanted: Container[int]) -> Iterator[Any]:
        """Frames from a key frame on, without those that are neither wanted nor needed to decode others."""
        self._container.seek(start, stream=self._stream)
        for packet in self._container.demux(self._stream):
            self._stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from packet.decode()

    def _next(self, decoder: Iterator[Any]) -> Any:
        """The next frame with a time, None at the end."""
        with _refusals():
            return next((frame for frame in decoder if frame.pts is not None), None)

    def _to_rgb(self, frame: Any) -> U8:
        _check_sides(frame.width, frame.height)  # may differ from the header
        with _refusals():
            pixels: U8 = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(pixels)


def _check_sides(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise invalid_media("the video does not say how large its pictures are")
    if max(width, height) > MAX_SIDE:
        raise media_too_large(f"the video is {width}x{height} pixels; the limit is {MAX_SIDE} a side")


@contextmanager
def _refusals() -> Iterator[None]:
    """Around calls into the reader only: its failures say something about the file."""
    try:
        yield
    except _READER_ERRORS:
        raise undecodable("video") from None
