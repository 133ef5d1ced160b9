"""The server process from its bound port to its exit code: start the engine, serve, drain or fail."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from engine.config import EngineConfig, EngineInfo, SpeechInfo, SpeechOptions
from engine.errors import ConfigError
from engine.inputs.processor_config import MediaConfig
from engine.inputs.tokenizer import Tokenizer
from engine.ipc import Ready, Start, StartSpeech
from engine.server.app import make_app
from engine.server.errors import unavailable
from engine.server.handle import EngineHandle
from engine.server.http import HttpServer
from engine.server.process import ENGINE_COMMAND, SPEECH_COMMAND, WorkerProcess
from engine.server.service import ServerOptions, Service
from engine.server.speech_handle import SpeechHandle
from engine.server.worker import WorkerHandle, WorkerState

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found on disk; `config` and `media` are None where the talker is served alone, `tokenizer` where the
    server takes and gives token ids only, `speech` where no talker is served."""

    config: EngineConfig | None
    tokenizer: Tokenizer | None
    media: MediaConfig | None
    speech: SpeechOptions | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """What to serve and how. `prepare` finds the model on disk, perhaps by downloading it: it runs in a thread.

    `parent_fd` is the read end of a pipe whose other end whoever started the server keeps open while it lives.
    """

    options: ServerOptions
    prepare: Callable[[], Prepared]
    port_file: Path | None = None
    drain_timeout_s: float = 30.0
    parent_fd: int | None = None
    engine_command: Sequence[str] = ENGINE_COMMAND
    speech_command: Sequence[str] = SPEECH_COMMAND


async def serve(launch: Launch, sock: socket.socket) -> int:
    """Serve on a bound socket until a signal or a failure; returns the exit code.

    Raises:
        ConfigError: the model cannot be found or read.
    """
    return await _Server(launch, sock).run()


class _Server:
    def __init__(self, launch: Launch, sock: socket.socket) -> None:
        self._launch = launch
        self._engine = WorkerProcess("engine", launch.engine_command, EngineHandle)
        self._speech = WorkerProcess("speech", launch.speech_command, SpeechHandle)
        self._service = Service(launch.options, self._engine.handle, self._speech.handle)
        app = make_app(self._service)
        rejected = self._service.metrics.rejected
        self._http = HttpServer(app, sock, rejected, max_connections=launch.options.max_connections)
        self._end: asyncio.Future[Literal["signal", "failure", "orphaned"]] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        for handle in self._handles:
            handle.on_change(self._on_worker_change)
        if self._launch.parent_fd is not None:
            loop.add_reader(self._launch.parent_fd, self._on_parent_gone, self._launch.parent_fd)
        await self._http.start()
        try:
            self._write_port()
            start = asyncio.create_task(self._start())
            start.add_done_callback(self._on_started)
            try:
                return await self._wait_end()
            finally:
                start.cancel()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        await self._http.stop()
        await asyncio.gather(self._engine.stop(), self._speech.stop())
        await self._service.close()
        if self._launch.port_file is not None:
            self._launch.port_file.unlink(missing_ok=True)

    async def _wait_end(self) -> int:
        end = await self._end
        if end == "orphaned":
            log.warning("whoever started this server is gone: ending with it")
            return 0
        if end == "signal":
            log.info("draining: running requests have %g s to finish", self._launch.drain_timeout_s)
            await self._service.drain(self._launch.drain_timeout_s)
            return 0
        for handle in self._handles:
            if handle.failure is not None:
                log.error("%s", handle.failure)
        await self._service.end_all(unavailable("engine_failed"))  # one worker is gone, the other one may still run
        return 1

    async def _start(self) -> None:
        """Find the model, start the engine and begin to take work."""
        prepared = await _in_daemon_thread(self._launch.prepare)
        if prepared.config is not None:
            await self._engine.start(Start(prepared.config))
        if prepared.speech is not None:
            await self._speech.start(StartSpeech(prepared.speech))  # the two load side by side
            await self._speech.wait_ready()
        speech = self._speech.handle.info
        if prepared.config is None and speech is not None:
            self._engine.handle.receive(Ready(_no_engine(speech)))
        await self._engine.wait_ready()
        self._service.open(prepared.tokenizer, prepared.media)
        info = self._engine.handle.info
        log.info("ready: %s, context %d tokens, %s", info.device, info.max_model_len, info.dtype)
        if speech is not None:
            log.info("speech: %s, %d Hz, %s", speech.device, speech.sample_rate, speech.dtype)

    def _on_started(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._end.done():
            self._end.set_exception(error)

    @property
    def _handles(self) -> tuple[WorkerHandle, ...]:
        return self._engine.handle, self._speech.handle

    def _on_worker_change(self) -> None:
        has_failed = any(handle.state is WorkerState.FAILED for handle in self._handles)
        if has_failed and not self._end.done():
            self._end.set_result("failure")

    def _on_parent_gone(self, fd: int) -> None:
        if not os.read(fd, 1024):
            asyncio.get_running_loop().remove_reader(fd)
            if not self._end.done():
                self._end.set_result("orphaned")

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._end.done():
            self._end.set_result("signal")
            return
        log.warning("second signal: not waiting any longer")
        self._engine.kill()
        self._speech.kill()
        os._exit(128 + number)

    def _write_port(self) -> None:
        log.info("listening on port %d", self._http.port)
        path = self._launch.port_file
        if path is None:
            return
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(f"{self._http.port}\n")
            partial.replace(path)  # a reader never sees half of it
        except OSError as error:
            raise ConfigError(f"--port-file {path}: cannot be written ({error.strerror})") from None


def _no_engine(speech: SpeechInfo) -> EngineInfo:
    """What stands in for the engine where the talker is served alone: no context, no vocabulary, no input."""
    return EngineInfo(
        max_model_len=0,
        vocab_size=0,
        num_blocks=0,
        block_size=0,
        eos_token_ids=(),
        checkpoint_digest="",
        dtype=speech.dtype,
        device=speech.device,
        tp=1,
        load_s=speech.load_s,
        modalities=(),
    )


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that does not keep the process alive: a download may take hours."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where it is waited for
            loop.call_soon_threadsafe(_settle, done.set_exception, error)
        else:
            loop.call_soon_threadsafe(_settle, done.set_result, result)

    def _settle(settle: Callable[..., None], value: object) -> None:
        if not done.done():
            settle(value)

    threading.Thread(target=run, daemon=True, name="prepare").start()
    return await done
