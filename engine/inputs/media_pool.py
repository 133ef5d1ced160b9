"""A few processes that decode and preprocess media, so that a bad file can cost no more than one request."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import msgspec

from engine.core.request import MediaKind
from engine.errors import ConfigError, InvalidRequest
from engine.inputs.decode_wire import Job, Reply, Setup
from engine.inputs.fenced import FencedGoneError, FencedProcess
from engine.inputs.media import EncodedMedia, Preprocessed, ends_decoders, undecodable
from engine.inputs.processor_config import MediaConfig

log = logging.getLogger(__name__)

START_LIMIT_S = 60
_reply_decoder = msgspec.msgpack.Decoder(Reply)  # built here, where there is one thread: see server/jsonbody.py


class MediaPool:
    """Workers for media, one job each at a time; further jobs wait their turn.

    A worker that crashes, takes too long or too much memory, or whose request is cancelled, is killed. Its place is
    filled again by the next job that gets it. The job of one that ended by itself, for which somebody else may be to
    blame, is tried once more.
    """

    def __init__(
        self,
        config: MediaConfig | None = None,
        *,
        num_workers: int = 2,
        time_limit_s: float = 20.0,
        memory_bytes: int = 2 << 30,
    ) -> None:
        self._setup = Setup(config or MediaConfig(), memory_bytes, time_limit_s)
        self._workers: list[_Worker] = []
        self._num_workers = num_workers
        self._idle: asyncio.Queue[int] = asyncio.Queue()
        self._is_closed = False
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="media")

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(worker.pid for worker in self._workers)

    async def start(self) -> None:
        """Start all workers; may be tried again if it fails.

        Raises:
            ConfigError: a decoder is not installed, or the workers do not start.
        """
        self._is_closed = False
        self._threads = ThreadPoolExecutor(self._num_workers, thread_name_prefix="media")
        self._workers = [_Worker() for _ in range(self._num_workers)]
        starts = [asyncio.create_task(self._get_ready(slot)) for slot in range(self._num_workers)]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await self.close()
            raise
        for slot in range(self._num_workers):
            self._idle.put_nowait(slot)

    async def preprocess(
        self,
        kind: MediaKind,
        data: bytes | tuple[bytes, ...],
        declared_mime: str | None,
        clip_hz: int | None = None,
    ) -> Preprocessed:
        """Decode one medium; `data` is a tuple for a list of JPEG frames (declared video/jpeg).

        With `clip_hz` it is a reference clip, and comes back as `preprocess.reference_clip` makes it.

        Raises:
            InvalidRequest: the medium is refused, takes too long, or was the end of two workers.
            NoWorkerError: there is no worker for it.
        """
        parts = data if isinstance(data, tuple) else (data,)
        job = Job(kind, EncodedMedia(parts, declared_mime), clip_hz)
        slot = await self._idle.get()
        try:
            reply = await self._run_again(slot, job)
        except TimeoutError:
            raise undecodable(kind) from None
        except FencedGoneError:
            raise ends_decoders(kind) from None
        finally:
            self._idle.put_nowait(slot)
        if reply.result is None:
            raise InvalidRequest(reply.message, code=reply.code)
        return reply.result

    async def close(self) -> None:
        """Kill all workers; jobs that are running fail."""
        self._is_closed = True
        self._threads.shutdown(wait=False)
        for worker in self._workers:
            worker.kill()
        await asyncio.to_thread(self._threads.shutdown)
        for worker in self._workers:
            worker.reap()

    async def _run_again(self, slot: int, job: Job) -> Reply:
        """`_run`; where the worker ended, which says little of the medium, once more with a new one."""
        try:
            return await self._run(slot, job)
        except FencedGoneError as error:
            if error.code is None:  # an answer of the file's own making
                raise undecodable(job.kind) from None
            if self._is_closed:
                raise NoWorkerError(is_sudden=False) from None
            log.warning("a media worker is gone (%s): its job is tried once more", error)
            return await self._run(slot, job)

    async def _run(self, slot: int, job: Job) -> Reply:
        if not self._workers[slot].is_alive:
            self._refill(slot)
            await self._get_ready(slot)
        return await self._workers[slot].ask(job, _reply_decoder, self._setup.time_limit_s, self._threads)

    def _refill(self, slot: int) -> None:
        """Put a new worker in the place of one that is gone."""
        self._workers[slot].reap()
        self._workers[slot] = _Worker()

    async def _get_ready(self, slot: int) -> None:
        """Set up the new worker in this place; if it is killed meanwhile, which no medium is to blame for, one more."""
        try:
            await self._set_up(self._workers[slot])
        except NoWorkerError as error:
            if not error.is_sudden or self._is_closed:
                raise
            self._refill(slot)
            await self._set_up(self._workers[slot])

    async def _set_up(self, worker: _Worker) -> None:
        try:
            reply = await worker.ask(self._setup, _reply_decoder, START_LIMIT_S, self._threads)
        except (TimeoutError, FencedGoneError) as error:
            raise NoWorkerError(is_sudden=isinstance(error, FencedGoneError)) from None
        if reply.message:
            raise ConfigError(reply.message)


class NoWorkerError(ConfigError):
    """A worker ended before it was ready (suddenly), or did not get ready in time."""

    def __init__(self, *, is_sudden: bool) -> None:
        super().__init__("a media worker does not start; its output above says why")
        self.is_sudden = is_sudden


class _Worker(FencedProcess):
    """One of the processes, on one core: threads of a matrix library would only add memory."""

    def __init__(self) -> None:
        super().__init__("engine.inputs.decode_worker", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
