"""Processes that run what clients sent, so that it can cost no more than one of them; see `decode_worker.confine`."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from concurrent.futures import Executor
from typing import TypeVar

import msgspec

from engine.errors import EngineError
from engine.inputs.decode_wire import receive_frame, send_frame

T = TypeVar("T")

_INHERITED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")


class FencedGoneError(EngineError):
    """The process ended with this exit code before it answered, or answered nonsense (None)."""

    def __init__(self, code: int | None) -> None:
        super().__init__("it answers nonsense" if code is None else f"it ended with exit code {code}")
        self.code = code


class FencedProcess:
    """`python -m module` with a socket as its standard input, and no secret of this process in its environment."""

    def __init__(self, module: str, **variables: str) -> None:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._sock, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=inherited | variables,
            )
        self._is_killed = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it may still answer."""
        return not self._is_killed and self._process.poll() is None

    async def ask(
        self, message: msgspec.Struct, decoder: msgspec.msgpack.Decoder[T], limit_s: float, threads: Executor
    ) -> T:
        """Send and wait for the answer in a thread; a process that does not give one in time is killed.

        Raises:
            TimeoutError: it took too long.
            FencedGoneError: it ended, or answers nonsense.
        """
        try:
            async with asyncio.timeout(limit_s):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(threads, self._exchange, message, decoder)
        except BaseException:
            self.kill()
            raise

    def _exchange(self, message: msgspec.Struct, decoder: msgspec.msgpack.Decoder[T]) -> T:
        """Blocks until the answer is there; `kill` from another thread ends the wait."""
        try:
            send_frame(self._sock, message)
            frame = receive_frame(self._sock)
        except OSError:
            frame = None
        if frame is None:
            raise FencedGoneError(self._process.wait())
        try:
            return decoder.decode(frame)
        except msgspec.MsgspecError:
            raise FencedGoneError(None) from None

    def kill(self) -> None:
        """End it, whatever it does."""
        self._is_killed = True
        self._process.kill()

    def reap(self) -> None:
        """Free what a killed process leaves behind."""
        self._process.wait()
        self._sock.close()
