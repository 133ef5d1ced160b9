"""The bundled engine as a child process: start it, wait until it takes work, stop it, keep its log.

`ming_eval` never imports the engine: it is a command to start and a URL to call.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ming_eval.client import probe
from ming_eval.errors import MingEvalError, TargetError, UsageError
from ming_eval.targets import Target

BUNDLED_NAME = "ming"

_KEY_VARIABLE = "MING_API_KEY"  # the engine would ask for it, and nobody but this process can reach it anyway
_STARTUP_LIMIT_S = 1800.0  # a full checkpoint is read from disk
_STOP_LIMIT_S = 15.0
_POLL_S = 0.1
_WATCH_S = 0.5  # rare: it happens while latency is measured
_NUM_LOG_LINES = 12
_REFUSED = 2  # exit code of an engine that cannot do what it was asked for
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
            "the bundled engine needs packages that are not installed: run `pip install 'ming-eval[engine]'` "
            "(in a source checkout `pip install '.[engine]'`), or measure a server that runs elsewhere with "
            "--backend NAME=URL"
        )
    return [sys.executable, "-m", "engine", *args]


def run_engine(args: Sequence[str]) -> int:
    """Run a command of the engine in the foreground, pass signals on to it, and return its exit code."""
    # A process group of its own: otherwise a Ctrl-C in the terminal would reach the engine twice.
    return _wait(subprocess.Popen(engine_command(args), stdin=subprocess.DEVNULL, process_group=0))


def run_server(args: Sequence[str]) -> int:
    """As `run_engine`, for the engine's server: it ends when this process is gone, however that came about."""
    with Lifeline() as lifeline:
        command = engine_command(["serve", *lifeline.options, *args])
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, pass_fds=lifeline.pass_fds)
        lifeline.handed_over()
        return _wait(child)


class Lifeline:
    """A pipe that nobody writes to: the engine holds the read end and ends when the write end is closed.

    The kernel closes it with this process, also when that is killed. Other children do not inherit it.
    """

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        self.options = ("--parent-fd", str(self._read_fd))
        self.pass_fds = (self._read_fd,)

    def __enter__(self) -> Lifeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def handed_over(self) -> None:
        """The child has its end; this process needs no copy."""
        os.close(self._read_fd)
        self._read_fd = -1

    def close(self) -> None:
        """Let go of what is still open."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1


def _wait(child: subprocess.Popen[bytes]) -> int:

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
        self._lifeline: Lifeline | None = None
        self._log_start = 0  # a resumed run appends to the log of the earlier one

    async def start(self, say: Say) -> Target:
        """Start the engine and return it as a target once it takes work.

        Raises:
            UsageError: it refuses its options or its model; with its own words.
            TargetError: it is not installed, dies, or is not ready in time; with the end of its log.
        """
        self._port_path.unlink(missing_ok=True)
        self._lifeline = Lifeline()
        own = ["--host", "127.0.0.1", "--port", "0", "--port-file", str(self._port_path), *self._lifeline.options]
        command = engine_command([*self._args, *own])
        with self._log_path.open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name != _KEY_VARIABLE},
                process_group=0,
                pass_fds=self._lifeline.pass_fds,
            )
        self._lifeline.handed_over()
        return await self._wait_ready(say)

    async def stop(self) -> None:
        """Ask the engine to end, and end it when it does not within a limit."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            deadline_s = time.monotonic() + _STOP_LIMIT_S
            while self._child.poll() is None and time.monotonic() < deadline_s:
                await asyncio.sleep(_POLL_S)
            self.kill()
        if self._lifeline is not None:
            self._lifeline.close()

    def kill(self) -> None:
        """End the engine and all its processes at once."""
        if self._child is None or self._child.poll() is not None:
            return
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    async def while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, and end it when the engine has died.

        Raises:
            TargetError: the engine has died; with the end of its log. It is then the cause of what `work` raises.
        """
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_WATCH_S)
                if (death := self._death()) is not None:
                    raise death
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        task.result()

    def _death(self) -> TargetError | None:
        """How the engine died and the end of its log; None while it lives."""
        if self._child is None or self._child.poll() is None:
            return None
        return TargetError(f"the bundled engine died ({_manner(self._child.returncode)}); {self._last_words()}")

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
        death = self._death()
        if death is not None:
            raise self._refusal() or death

    def _refusal(self) -> MingEvalError | None:
        """The engine's own error line, where a mistake of the user's ended it."""
        assert self._child is not None
        found = re.findall(r"^(?:.*?: )?error: (.+)", "\n".join(self._log()), re.MULTILINE)
        if self._child.returncode != _REFUSED or not found:
            return None
        return UsageError(f"the bundled engine does not start: {found[-1]}")

    def _log(self) -> list[str]:
        """What the engine has printed since this start."""
        return self._log_path.read_bytes()[self._log_start :].decode(errors="replace").splitlines()

    def _last_words(self) -> str:
        lines = [line for line in self._log() if line.strip()][-_NUM_LOG_LINES:]
        if not lines:
            return f"it logged nothing to {self._log_path}"
        return "\n    ".join([f"its log, {self._log_path}, ends with:", *lines])


def _manner(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode >= 0:
        return f"exit code {returncode}"
    return f"killed by {signal.Signals(-returncode).name}"


@asynccontextmanager
async def running(server: BundledServer, say: Say) -> AsyncIterator[Target]:
    """The engine, ready, for the length of the block; it is stopped whatever happens in there."""
    try:
        yield await server.start(say)
    finally:
        await server.stop()
