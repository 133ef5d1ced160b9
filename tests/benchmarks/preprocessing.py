"""Time from an encoded file to encoder inputs, on one core, alone and through a worker process.

    OPENBLAS_NUM_THREADS=1 python -m tests.benchmarks.preprocessing

The budget is 100 ms for a JPEG of 1920x1080 pixels and for 30 s of audio.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from io import BytesIO

import numpy as np
from PIL import Image

from engine.core.request import MediaKind
from engine.inputs.media import EncodedMedia
from engine.inputs.media_pool import MediaPool
from engine.inputs.preprocess import preprocess
from engine.inputs.processor_config import MediaConfig
from tests.engine.inputs.media_files import audio_file, gradient, video_file

NUM_RUNS = 5


def photograph() -> bytes:
    """A JPEG with about as much detail as a picture of a camera, about 300 kB."""
    noise = np.random.default_rng(0).normal(0, 6, (1080, 1920, 3))
    pixels = np.clip(np.asarray(gradient(1920, 1080)) + noise, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def files() -> dict[str, tuple[MediaKind, bytes]]:
    return {
        "JPEG 1920x1080": ("image", photograph()),
        "WAV 30 s, 16 kHz": ("audio", audio_file("wav", 30 * 16_000, 16_000)),
        "WAV 30 s, 44.1 kHz stereo": ("audio", audio_file("wav", 30 * 44_100, 44_100, num_channels=2)),
        "MP3 30 s, 48 kHz": ("audio", audio_file("mp3", 30 * 48_000, 48_000)),
        "MP4 10 s, 1280x720, H.264": ("video", video_file(num_frames=240, fps=24, size=(1280, 720))),
    }


def alone_s(kind: MediaKind, data: bytes) -> float:
    started_s = time.perf_counter()
    preprocess(kind, EncodedMedia((data,), None), MediaConfig())
    return time.perf_counter() - started_s


async def pooled_s(pool: MediaPool, kind: MediaKind, data: bytes) -> float:
    started_s = time.perf_counter()
    await pool.preprocess(kind, data, None)
    return time.perf_counter() - started_s


async def main() -> None:
    print(f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; median of {NUM_RUNS}")
    pool = MediaPool(num_workers=1)
    await pool.start()
    for name, (kind, data) in files().items():
        alone_s(kind, data), await pooled_s(pool, kind, data)  # filter tables are made once in a process
        direct = [alone_s(kind, data) for _ in range(NUM_RUNS)]
        pooled = [await pooled_s(pool, kind, data) for _ in range(NUM_RUNS)]
        milliseconds = [1e3 * statistics.median(times) for times in (direct, pooled)]
        size = f"{len(data) / 1e3:.0f} kB"
        print(f"{name:28}{size:>10}   alone {milliseconds[0]:6.1f} ms   through a worker {milliseconds[1]:6.1f} ms")
    await pool.close()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    asyncio.run(main())
