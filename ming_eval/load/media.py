"""Media of a wanted size, made for one request each: no cache of encoded media knows them from before.

Drawn and synthesised from a seed, so that request i has the same file on every system and in every repetition. Images
are PNG, sounds WAV (PCM16, 16 kHz); clips are H.264 in MP4 and need PyAV.
"""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from ming_eval.errors import UsageError
from ming_eval.evals.optional import require
from ming_eval.metrics.audio import PcmFormat, wav_header
from ming_eval.types import Media

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # [height, width, 3]

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_S = 8
_MOST_PIXELS = 40_000_000
_GRAIN = 16  # pixels of a texture block: enough detail that a file is not empty, little enough that it stays small


@dataclass(frozen=True, slots=True)
class MediaShape:
    """How large made media are, and how many of them go with one request. Sizes are `(width, height)` in pixels."""

    count: int = 1
    image_size: tuple[int, int] = (448, 448)
    audio_s: float = 4.0
    video_s: float = 2.0
    video_size: tuple[int, int] = (320, 240)


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Width and height in `640x480`, or in `448` for a square.

    Raises:
        UsageError: it is neither, or no size that an image can have.
    """
    match = re.fullmatch(r"\s*(\d+)(?:x(\d+))?\s*", text)
    if match is None:
        raise UsageError(f"bad {option} {text!r}: write 640x480, or 448 for a square")
    width, height = int(match[1]), int(match[2] or match[1])
    if not (width >= 8 and height >= 8 and width * height <= _MOST_PIXELS):
        raise UsageError(f"bad {option} {text!r}: want at least 8 pixels a side and at most 40 megapixels")
    return width, height


def check_can_make(kind: str) -> None:
    """Find out before anything is measured.

    Raises:
        UsageError: a package is missing.
    """
    if kind == "video":
        require("av", purpose="making video clips (name a folder of your own with --dataset DIR, or install it)")


def make_media(kind: str, shape: MediaShape, seed: str) -> tuple[Media, ...]:
    """The files of one request.

    Raises:
        UsageError: a package is missing.
    """
    made = {"image": _image, "audio": _sound, "video": _clip}[kind]
    return tuple(made(shape, random.Random(f"{kind} {seed} {i}")) for i in range(shape.count))


# --- Images ------------------------------------------------------------------------------------------------------


def _image(shape: MediaShape, rng: random.Random) -> Media:
    return Media("image", png(_scene(shape.image_size, rng)), "image/png")


def png(pixels: Pixels) -> bytes:
    """An RGB image as a PNG file."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter 0 in front of each row
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _scene(size: tuple[int, int], rng: random.Random) -> Pixels:
    """A coarse texture with boxes of random colours on it."""
    import numpy as np

    width, height = size
    drawn = np.random.default_rng(rng.getrandbits(64))
    blocks = drawn.integers(0, 256, size=(-(-height // _GRAIN), -(-width // _GRAIN), 3), dtype=np.uint8)
    pixels = blocks.repeat(_GRAIN, axis=0).repeat(_GRAIN, axis=1)[:height, :width].copy()
    for _ in range(6):
        _draw_box(pixels, rng)
    return pixels


def _draw_box(pixels: Pixels, rng: random.Random) -> None:
    height, width, _ = pixels.shape
    top, left = rng.randrange(height), rng.randrange(width)
    colour = [rng.randrange(256) for _ in range(3)]
    pixels[top : top + rng.randint(1, height), left : left + rng.randint(1, max(1, width // 3))] = colour


# --- Sounds ------------------------------------------------------------------------------------------------------


def _sound(shape: MediaShape, rng: random.Random) -> Media:
    return Media("audio", _wav(shape.audio_s, rng), "audio/wav")


def _wav(duration_s: float, rng: random.Random) -> bytes:
    """Harmonics of a gliding pitch that come and go a few times a second, as syllables do, over faint noise."""
    import numpy as np

    times_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    drawn = np.random.default_rng(rng.getrandbits(64))
    pitch_hz = rng.uniform(90, 240) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * times_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = sum(np.sin(number * phase) / number for number in range(1, 6))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * times_s), 0, 1)
    samples = 0.3 * voice * syllables + 0.003 * drawn.standard_normal(len(times_s))
    data = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    return wav_header(PcmFormat(SAMPLE_RATE_HZ), len(data)) + data


# --- Clips -------------------------------------------------------------------------------------------------------


def _clip(shape: MediaShape, rng: random.Random) -> Media:
    return Media("video", mp4(list(_frames(shape, rng))), "video/mp4")


def _frames(shape: MediaShape, rng: random.Random) -> Iterator[Pixels]:
    """A box that crosses a scene."""
    width, height = (side - side % 2 for side in shape.video_size)  # H.264 with halved colour has even sides
    scene = _scene((width, height), rng)
    colour = [rng.randrange(256) for _ in range(3)]
    top, side = rng.randrange(max(1, height // 2)), max(2, min(width, height) // 4)
    num_frames = max(2, round(shape.video_s * FRAMES_PER_S))
    for number in range(num_frames):
        frame = scene.copy()
        left = (width - side) * number // (num_frames - 1)
        frame[top : top + side, left : left + side] = colour
        yield frame


def mp4(frames: Sequence[Pixels]) -> bytes:
    """Frames as H.264 in MP4.

    Raises:
        UsageError: PyAV is missing.
    """
    av = require("av", purpose="making video clips")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S)
        stream.thread_count = 1  # the number of threads changes the bytes
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_S)
        stream.height, stream.width, _ = frames[0].shape
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def to_mp4(data: bytes, name: str) -> bytes:
    """A clip of another container or codec as H.264 in MP4, without its sound.

    Raises:
        UsageError: PyAV is missing, or cannot read the file.
    """
    av = require("av", purpose=f"converting {name} to MP4")
    out = io.BytesIO()
    try:
        with av.open(io.BytesIO(data)) as source, av.open(out, "w", format="mp4") as target:
            video = source.streams.video[0]
            stream = target.add_stream("libx264", rate=video.average_rate or FRAMES_PER_S)
            stream.thread_count = 1
            stream.width, stream.height = video.width - video.width % 2, video.height - video.height % 2
            stream.pix_fmt = "yuv420p"
            for frame in source.decode(video):
                target.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))
            target.mux(stream.encode())
    except (av.FFmpegError, IndexError) as exc:
        raise UsageError(f"cannot read the video {name}: {exc}") from exc
    return out.getvalue()
