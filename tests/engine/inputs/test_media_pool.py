"""Workers as processes: results, refusals, and what happens to a worker that misbehaves."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from engine.errors import ConfigError, InvalidRequest
from engine.inputs import fenced, media_pool
from engine.inputs.decode_wire import MAX_FRAME_BYTES, Job, Reply, receive_frame, send_frame
from engine.inputs.media import EncodedMedia, Preprocessed
from engine.inputs.media_pool import MediaPool, NoWorkerError
from engine.inputs.preprocess import preprocess
from engine.inputs.processor_config import ImageProcessorConfig, MediaConfig
from tests.engine.inputs.media_files import AUDIO_FILES, VIDEO_FILES, audio_file, image_file, video_file, yamaha_wav
from tests.pressure.malformed_media import broken_file, media_files, media_kinds

pytestmark = pytest.mark.slow  # real processes, real files

PNG = image_file("PNG")

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")


@asynccontextmanager
async def pool(**options: Any) -> AsyncIterator[MediaPool]:
    workers = MediaPool(**({"num_workers": 1} | options))
    await workers.start()
    try:
        yield workers
    finally:
        await workers.close()


def with_pool(test: Callable[[MediaPool], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with pool(**options) as workers:
            await asyncio.wait_for(test(workers), 300)

    asyncio.run(main())


async def still_serves(workers: MediaPool) -> None:
    result = await workers.preprocess("image", PNG, "image/png")
    assert result.arrays[0].num_tokens == 4


async def until_taken(workers: MediaPool) -> None:
    """Until a job lies in the socket of a worker that does not read."""
    sock = workers._workers[0]._sock
    while not int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
        await asyncio.sleep(0.005)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] == "Z":
            return
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def assert_same(got: Preprocessed, want: Preprocessed) -> None:
    """Equal; of sound, but for the last bits: with more threads than a worker has, a library sums in another order."""
    if want.kind != "audio":
        assert got == want
        return
    assert replace(got, arrays=()) == replace(want, arrays=())
    for mine, theirs in zip(got.arrays, want.arrays, strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        values = (np.frombuffer(array.data, array.dtype) for array in (mine, theirs))
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


def test_every_format_passes_through_a_worker() -> None:
    files: list[tuple[str, bytes, str | None]] = [
        *(("image", image_file(fmt), f"image/{fmt.lower()}") for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP")),
        *(("audio", audio_file(kind, 8_000), f"audio/{kind.partition('-')[0]}") for kind in AUDIO_FILES),
        ("audio", yamaha_wav(), "audio/wav"),
        *(("video", video_file(kind, num_frames=4), None) for kind in VIDEO_FILES),
        ("video", video_file(num_frames=4, sound=True), "video/mp4"),
    ]

    async def test(workers: MediaPool) -> None:
        for kind, data, mime in files:
            got = await workers.preprocess(kind, data, mime)
            assert_same(got, preprocess(kind, EncodedMedia((data,), mime), MediaConfig()))

    with_pool(test)


def test_a_frame_list_passes_through_a_worker() -> None:
    parts = (image_file("JPEG", (64, 48)), image_file("JPEG", (48, 64)))

    async def test(workers: MediaPool) -> None:
        got = await workers.preprocess("video", parts, "video/jpeg")
        assert got == preprocess("video", EncodedMedia(parts, "video/jpeg"), MediaConfig())
        assert [array.timestamp_s for array in got.arrays] == [0.25]

    with_pool(test)


def test_the_configuration_reaches_the_worker() -> None:
    config = MediaConfig(ImageProcessorConfig(patch_size=8))

    async def test(workers: MediaPool) -> None:
        assert (await workers.preprocess("image", PNG, None)).arrays[0].shape == (8 * 10, 3 * 2 * 8 * 8)

    with_pool(test, config=config)  # 70x50 pixels: 64x48 has too few; 4,096 at least gives 80x64


def test_a_refusal_keeps_its_message_and_its_worker() -> None:
    async def test(workers: MediaPool) -> None:
        before = workers.pids
        with pytest.raises(InvalidRequest, match="declared type 'image/webp'") as caught:
            await workers.preprocess("image", PNG, "image/webp")
        assert caught.value.code == "invalid_media"
        await still_serves(workers)
        assert workers.pids == before

    with_pool(test)


def test_jobs_wait_for_a_free_worker() -> None:
    async def test(workers: MediaPool) -> None:
        results = await asyncio.gather(*(workers.preprocess("image", PNG, None) for _ in range(8)))
        assert len(set(results)) == 1

    with_pool(test, num_workers=2)


async def killed_at_work(workers: MediaPool) -> None:
    """The worker that is there, over a job that it was given and has not read."""
    (pid,) = workers.pids
    os.kill(pid, signal.SIGSTOP)
    await until_taken(workers)
    os.kill(pid, signal.SIGKILL)


@linux
def test_a_killed_worker_costs_nobody_a_request() -> None:
    """Who killed it is not known: its job is tried once more."""

    async def test(workers: MediaPool) -> None:
        (pid,) = workers.pids
        os.kill(pid, signal.SIGSTOP)
        job = asyncio.create_task(workers.preprocess("image", PNG, None))
        await killed_at_work(workers)
        assert (await job).arrays[0].num_tokens == 4
        assert pid not in workers.pids

    with_pool(test)


@linux
def test_what_ends_two_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    async def test(workers: MediaPool) -> None:
        run = workers._run

        async def run_to_the_end(slot: int, job: Job) -> Reply:
            if not workers._workers[slot].is_alive:
                workers._refill(slot)
                await workers._get_ready(slot)
            tried.append(workers.pids[slot])
            os.kill(tried[-1], signal.SIGSTOP)  # it can take the job, and does not answer
            running = asyncio.create_task(run(slot, job))
            await killed_at_work(workers)
            return await running

        with monkeypatch.context() as patch:
            patch.setattr(workers, "_run", run_to_the_end)
            with pytest.raises(InvalidRequest, match="ended the process that tried, and the next one") as caught:
                await workers.preprocess("image", PNG, None)
        assert caught.value.code == "invalid_media"
        assert len(set(tried)) == len(tried) == 2
        await still_serves(workers)

    with_pool(test)


@linux
def test_a_pool_that_is_closed_at_work_tries_nothing_again() -> None:
    async def test(workers: MediaPool) -> None:
        os.kill(workers.pids[0], signal.SIGSTOP)
        before = workers.pids
        job = asyncio.create_task(workers.preprocess("image", PNG, None))
        await until_taken(workers)
        await workers.close()
        with pytest.raises(NoWorkerError):
            await job
        assert workers.pids == before

    with_pool(test)


@linux
@pytest.mark.parametrize("kind", media_kinds())
def test_broken_files_are_results_or_refusals(kind: str) -> None:
    """Heads with bytes overwritten, cut off or followed by noise: nothing else comes of them, and the pool goes on."""
    mime, whole = media_files()[kind]
    modality: Any = kind.partition("/")[0]

    async def test(workers: MediaPool) -> None:
        refused = 0
        for seed in range(40):
            try:
                await workers.preprocess(modality, broken_file(Random(f"{kind}/{seed}"), whole), mime)
            except InvalidRequest as error:
                refused += 1
                assert error.code in ("invalid_media", "media_too_large", "audio_too_long")  # noqa: PT017
                assert error.message.isprintable()  # noqa: PT017
        assert refused > 5
        assert (await workers.preprocess(modality, whole, mime)).arrays

    with_pool(test)


def test_a_worker_that_died_idle_costs_nobody_a_request() -> None:
    async def test(workers: MediaPool) -> None:
        (pid,) = workers.pids
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        await still_serves(workers)

    with_pool(test)


@linux
def test_a_worker_that_is_killed_while_it_starts_is_started_again() -> None:
    async def test(workers: MediaPool) -> None:
        [first] = workers.pids
        os.kill(first, signal.SIGKILL)
        wait_until_gone(first)
        job = asyncio.create_task(workers.preprocess("image", PNG, "image/png"))
        while workers.pids == (first,):
            await asyncio.sleep(0)
        [second] = workers.pids
        os.kill(second, signal.SIGKILL)
        assert (await job).arrays[0].num_tokens == 4
        assert workers.pids not in ((first,), (second,))

    with_pool(test)


@linux
def test_workers_that_are_killed_while_the_pool_starts_are_started_again() -> None:
    async def main() -> None:
        workers = MediaPool(num_workers=2)
        start = asyncio.create_task(workers.start())
        while not workers.pids:
            await asyncio.sleep(0)
        first = workers.pids
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        try:
            await start
            assert set(workers.pids).isdisjoint(first)
            await asyncio.gather(still_serves(workers), still_serves(workers))
        finally:
            await workers.close()

    asyncio.run(asyncio.wait_for(main(), 300))


@linux
def test_a_pool_that_is_closed_while_it_starts_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[media_pool._Worker] = []

    class Counted(media_pool._Worker):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    async def main() -> None:
        workers = MediaPool(num_workers=2)
        start = asyncio.create_task(workers.start())
        for _ in range(5):  # turns of the loop, until each waits for its worker
            await asyncio.sleep(0)
        await workers.close()
        with pytest.raises(ConfigError, match="does not start"):
            await start

    monkeypatch.setattr(media_pool, "_Worker", Counted)
    asyncio.run(asyncio.wait_for(main(), 300))
    assert len(started) == 2
    assert not any(Path(f"/proc/{worker.pid}").exists() for worker in started)


@linux
def test_a_slow_worker_is_killed_at_the_time_limit() -> None:
    async def test(workers: MediaPool) -> None:
        (pid,) = workers.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(InvalidRequest, match="could not be decoded"):
            await workers.preprocess("image", PNG, None)
        wait_until_gone(pid)
        workers._setup.time_limit_s = 60.0
        await still_serves(workers)

    with_pool(test, time_limit_s=0.3)


@linux
def test_cancelling_a_job_kills_its_worker() -> None:
    async def test(workers: MediaPool) -> None:
        (pid,) = workers.pids
        os.kill(pid, signal.SIGSTOP)
        job = asyncio.create_task(workers.preprocess("image", PNG, None))
        await until_taken(workers)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        wait_until_gone(pid)
        await still_serves(workers)

    with_pool(test)


def test_cancelling_a_waiting_job_harms_nobody() -> None:
    async def test(workers: MediaPool) -> None:
        jobs = [asyncio.create_task(workers.preprocess("image", PNG, None)) for _ in range(3)]
        await asyncio.sleep(0)
        jobs[2].cancel()
        assert isinstance(await jobs[0], Preprocessed)
        assert isinstance(await jobs[1], Preprocessed)
        await still_serves(workers)

    with_pool(test)


@linux
def test_too_much_memory_is_a_refusal() -> None:
    buffer = BytesIO()
    Image.new("1", (6_000, 6_000)).save(buffer, "PNG")  # a small file, and 144 MB as RGB in Pillow
    large = buffer.getvalue()

    async def test(workers: MediaPool) -> None:
        with pytest.raises(InvalidRequest, match="could not be decoded"):
            await workers.preprocess("image", large, None)
        await still_serves(workers)

    with_pool(test, memory_bytes=100 << 20)


@linux
def test_a_worker_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MING_API_KEY", "hunter2")

    async def test(workers: MediaPool) -> None:
        assert b"hunter2" not in Path(f"/proc/{workers.pids[0]}/environ").read_bytes()

    with_pool(test)


@pytest.mark.parametrize("attempt", ["socket.socket()", "socket.getaddrinfo('localhost', 80)"])
def test_a_confined_process_makes_no_connection(attempt: str) -> None:
    code = f"import socket; from engine.inputs.decode_worker import confine; confine(1 << 30); {attempt}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "PermissionError: socket." in result.stderr


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="no such filter")
@pytest.mark.parametrize(
    "attempt",
    [
        "libc.socket(2, 1, 0)",
        "libc.socketpair(1, 1, 0, (ctypes.c_int * 2)())",
        "libc.fork()",
        "libc.execv(b'/bin/true', (ctypes.c_char_p * 2)(b'true', None))",
        "libc.open(b'written', os.O_WRONLY | os.O_CREAT, 0o600)",
        "libc.open(sys.executable.encode(), os.O_RDWR)",
        "libc.unlink(sys.executable.encode())",
        "libc.mkdir(b'made', 0o700)",
        "libc.ptrace(0, 0, 0, 0)",
    ],
)
def test_the_kernel_refuses_what_a_decoder_has_no_use_for(attempt: str, tmp_path: Path) -> None:
    """Asked of the C library, as the code of an attacker would; a thread, a read and the open socket still work."""
    code = f"""
import ctypes, errno, os, socket, sys, threading
from engine.inputs.seccomp import deny_world
libc = ctypes.CDLL(None, use_errno=True)
mine, theirs = socket.socketpair()
assert deny_world()
assert {attempt} == -1 and ctypes.get_errno() == errno.EPERM, os.strerror(ctypes.get_errno())
mine.sendall(b"x")
assert theirs.recv(1) == b"x"
assert open("/proc/self/comm").read()
thread = threading.Thread(target=print, args=("done",))
thread.start()
thread.join()
"""
    command = [sys.executable, "-c", code]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


@linux
def test_a_confined_process_has_a_memory_limit() -> None:
    code = "from engine.inputs.decode_worker import confine; confine(64 << 20); bytearray({} << 20)"
    results = [
        subprocess.run([sys.executable, "-c", code.format(size)], capture_output=True, text=True, check=False)
        for size in (32, 96)
    ]
    assert [result.returncode for result in results] == [0, 1]
    assert "MemoryError" in results[1].stderr


@linux
def test_workers_end_with_the_pool_and_with_its_process() -> None:
    async def main() -> tuple[int, ...]:
        async with pool(num_workers=2) as workers:
            return workers.pids

    for pid in asyncio.run(main()):
        assert not Path(f"/proc/{pid}").exists()


def test_a_missing_decoder_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "soundfile.py").write_text("raise ImportError('no libsndfile')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"soundfile is not installed .*ming-eval\[engine\]"):
            await MediaPool(num_workers=1).start()

    asyncio.run(main())


def test_a_worker_that_cannot_start_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def main() -> None:
        with pytest.raises(ConfigError, match="does not start"):
            await MediaPool(num_workers=1).start()

    asyncio.run(main())


def test_frames_survive_any_split() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(theirs, Reply(message="x" * 1_000))
        theirs.close()
        frame = receive_frame(ours)
        assert frame is not None
        assert msgspec.msgpack.decode(frame, type=Reply).message == "x" * 1_000
        assert receive_frame(ours) is None


@pytest.mark.parametrize(
    "sent", [b"\x05\0\0\0", (MAX_FRAME_BYTES + 1).to_bytes(8, "little"), b"\x05" + bytes(7) + b"ab"]
)
def test_broken_frames_read_as_the_end(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(sent)
        theirs.close()
        assert receive_frame(ours) is None


def test_a_worker_that_answers_nonsense_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(workers: MediaPool) -> None:
        (pid,) = workers.pids
        with monkeypatch.context() as patch:
            patch.setattr(fenced, "receive_frame", lambda sock: bytearray(b"\xc1"))
            with pytest.raises(InvalidRequest, match="could not be decoded"):
                await workers.preprocess("image", PNG, None)
        await still_serves(workers)
        assert pid not in workers.pids

    with_pool(test)
