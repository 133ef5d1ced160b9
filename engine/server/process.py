"""Starts the engine process and joins it to an `EngineHandle` through an inherited socket pair."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from typing import cast

from engine.config import EngineConfig, EngineInfo
from engine.errors import ConfigError
from engine.ipc import Command, FrameError, FrameSplitter, Start, decode_events, pack
from engine.server.handle import EngineHandle, EngineState

log = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "engine.runtime.process")
_EXIT_GRACE_S = 5.0


class EngineLink(asyncio.Protocol):
    """The server's end of the socket."""

    def __init__(self) -> None:
        self.handle = EngineHandle(self.send)
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None

    def send(self, command: Command) -> None:
        assert self._transport is not None, "commands go out after the engine was started"
        self._transport.write(pack(command))

    def close(self) -> None:
        """Hang up, which ends the engine process."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            for event in decode_events(self._splitter, data):
                self.handle.receive(event)
        except FrameError as error:
            self.handle.lose(str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.handle.lose("the engine process ended; what it logged last says why")


class EngineProcess:
    """The engine process and the link to it. `command` starts one; `--fd N` is appended."""

    def __init__(self, command: Sequence[str] = ENGINE_COMMAND) -> None:
        self._command = command
        self._link = EngineLink()
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def handle(self) -> EngineHandle:
        return self._link.handle

    async def start(self, config: EngineConfig) -> None:
        """Start the process; its handle says when the model is loaded."""
        ours, theirs = socket.socketpair()
        with theirs:
            # Its standard output is ours to keep for results: whatever a library prints goes to the log.
            self._process = await asyncio.create_subprocess_exec(
                *self._command, "--fd", str(theirs.fileno()), pass_fds=(theirs.fileno(),), stdout=2
            )
        log.info("engine process %d started", self._process.pid)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._link, sock=ours)
        self._link.send(Start(config))
        self._watch = asyncio.create_task(self._wait_exit(self._process))

    async def wait_ready(self) -> EngineInfo:
        """Wait until the model is loaded; what was found.

        Raises:
            ConfigError: it cannot be.
        """
        changed = asyncio.Event()
        self.handle.on_change(changed.set)
        if self.handle.state is EngineState.STARTING:
            await changed.wait()
        if self.handle.state is EngineState.FAILED:
            raise ConfigError(self.handle.failure or "the engine did not start")
        return self.handle.info

    async def stop(self) -> None:
        """Hang up and wait for the process to end, by force after a while."""
        self._link.close()
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), _EXIT_GRACE_S)
        except TimeoutError:
            log.warning("the engine process did not end by itself and is killed")
            self._process.kill()
            await self._process.wait()

    async def _wait_exit(self, process: asyncio.subprocess.Process) -> None:
        """Notice the end even while a process of the engine's own keeps the socket open."""
        code = await process.wait()
        self.handle.lose(f"the engine process ended with exit code {code}; what it logged last says why")

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
