"""The bundled engine as a child process: start it, wait until it takes work, stop it, keep its log.

`ming_eval` never imports the engine: it is a command to start and a URL to call.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

from ming_eval.client import probe
from ming_eval.errors import TargetError
from ming_eval.targets import Target

BUNDLED_NAME = "ming"

_KEY_VARIABLE = "MING_API_KEY"  # the engine would ask for it, and nobody but this process can reach it anyway
_STARTUP_LIMIT_S = 1800.0  # a full checkpoint is read from disk
_STOP_LIMIT_S = 15.0
_POLL_S = 0.1
_NUM_LOG_LINES = 12
_FORWARDED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)

Say = Callable[[str], None]


def engine_command(args: Sequence[str]) -> list[str]:
    """The command that runs the bundled engine with `args`.

    Raises:
        TargetError: the packages that the engine needs are not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise TargetError(
            "the bundled engine needs packages that are not installed: run `pip install 'ming-eval[engine]'`, "
            "or measure a server that runs elsewhere with --backend NAME=URL"
        )
    return [sys.executable, "-m", "engine", *args]


def run_engine(args: Sequence[str]) -> int:
    """Run the engine in the foreground, pass signals on to it, and return its exit code."""
    # A process group of its own: otherwise a Ctrl-C in the terminal would reach the engine twice.
    child = subprocess.Popen(engine_command(args), stdin=subprocess.DEVNULL, process_group=0)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


class BundledServer:
    """One engine child on a free port of this host. `log_path` gets everything that it prints."""

    def __init__(self, args: Sequence[str], log_path: Path) -> None:
        self._args = tuple(args)
        self._log_path = log_path
        self._port_path = log_path.with_name("engine.port")
        self._child: subprocess.Popen[bytes] | None = None

    async def start(self, say: Say) -> Target:
        """Start the engine and return it as a target once it takes work.

        Raises:
            TargetError: it is not installed, dies, or is not ready in time; with the end of its log.
        """
        self._port_path.unlink(missing_ok=True)
        own = ["--host", "127.0.0.1", "--port", "0", "--port-file", str(self._port_path)]
        command = engine_command([*self._args, *own])
        with self._log_path.open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name != _KEY_VARIABLE},
                process_group=0,
            )
        return await self._wait_ready(say)

    async def stop(self) -> None:
        """Ask the engine to end, and end it when it does not within a limit."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        deadline_s = time.monotonic() + _STOP_LIMIT_S
        while self._child.poll() is None and time.monotonic() < deadline_s:
            await asyncio.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """End the engine and all its processes at once."""
        if self._child is None or self._child.poll() is not None:
            return
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def explain(self, error: TargetError) -> TargetError:
        """`error`, with what the engine's log says when the engine has died."""
        if self._child is None or self._child.poll() is None:
            return error
        return self._death()

    async def _wait_ready(self, say: Say) -> Target:
        started_s = time.monotonic()
        while (waited_s := time.monotonic() - started_s) < _STARTUP_LIMIT_S:
            say(f"starting the bundled engine, {waited_s:.0f} s")
            self._check_alive()
            target = self._target()
            if target is not None and await probe.is_healthy(target):
                return target
            await asyncio.sleep(_POLL_S)
        raise TargetError(f"the bundled engine is not ready after {_STARTUP_LIMIT_S:g} s; its log is {self._log_path}")

    def _target(self) -> Target | None:
        """Where the engine listens; None as long as it has not said."""
        try:
            port = self._port_path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        return Target.at(f"http://127.0.0.1:{port}", name=BUNDLED_NAME, dialect="ming") if port else None

    def _check_alive(self) -> None:
        assert self._child is not None
        if self._child.poll() is not None:
            raise self._death()

    def _death(self) -> TargetError:
        assert self._child is not None
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-_NUM_LOG_LINES:])
        return TargetError(
            f"the bundled engine ended with exit code {self._child.returncode}; the end of {self._log_path}:\n{tail}"
        )


@asynccontextmanager
async def running(server: BundledServer, say: Say) -> AsyncIterator[Target]:
    """The engine, ready, for the length of the block; it is stopped whatever happens in there."""
    try:
        yield await server.start(say)
    finally:
        await server.stop()
