"""Starts a worker process and joins it to its handle through an inherited socket pair."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from engine.environment import without_secrets
from engine.errors import ConfigError
from engine.ipc import Command, FrameError, FrameSplitter, decode_events, pack
from engine.server.worker import Handle, WorkerState

log = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "engine.runtime.process")
SPEECH_COMMAND = (sys.executable, "-m", "engine.stages.process")
_EXIT_GRACE_S = 5.0

H = TypeVar("H", bound=Handle)


class WorkerLink(asyncio.Protocol, Generic[H]):
    """The server's end of the socket. `name` is the worker's, for messages."""

    def __init__(self, name: str, make_handle: Callable[[Callable[[Command], None]], H]) -> None:
        self.handle = make_handle(self.send)
        self._name = name
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None

    def send(self, command: Command) -> None:
        assert self._transport is not None, "commands go out after the worker was started"
        self._transport.write(pack(command))

    def close(self) -> None:
        """Hang up, which ends the process."""
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
        self.handle.lose(f"the {self._name} process ended; what it logged last says why")


class WorkerProcess(Generic[H]):
    """A worker process and the link to it. `command` starts one; `--fd N` is appended."""

    def __init__(
        self, name: str, command: Sequence[str], make_handle: Callable[[Callable[[Command], None]], H]
    ) -> None:
        self._name = name
        self._command = command
        self._link = WorkerLink(name, make_handle)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def handle(self) -> H:
        return self._link.handle

    async def start(self, first: Command) -> None:
        """Start the process with its first command; its handle says when the model is loaded."""
        ours, theirs = socket.socketpair()
        with theirs:
            # Its standard output is ours to keep for results: whatever a library prints goes to the log.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--fd", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdout=2,
                env=without_secrets(os.environ),
            )
        log.info("%s process %d started", self._name, self._process.pid)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._link, sock=ours)
        self._link.send(first)
        self._watch = asyncio.create_task(self._wait_exit(self._process))

    async def wait_ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ConfigError: it cannot be.
        """
        changed = asyncio.Event()
        self.handle.on_change(changed.set)
        if self.handle.state is WorkerState.STARTING:
            await changed.wait()
        if self.handle.state is WorkerState.FAILED:
            raise ConfigError(self.handle.failure or f"the {self._name} process did not start")

    async def stop(self) -> None:
        """Hang up and wait for the process to end, by force after a while."""
        self._link.close()
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), _EXIT_GRACE_S)
        except TimeoutError:
            log.warning("the %s process did not end by itself and is killed", self._name)
            self._process.kill()
            await self._process.wait()

    async def _wait_exit(self, process: asyncio.subprocess.Process) -> None:
        """Notice the end even while a process of the worker's own keeps the socket open."""
        code = await process.wait()
        self.handle.lose(f"the {self._name} process ended with exit code {code}; what it logged last says why")

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
