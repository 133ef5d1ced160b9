"""How the process that steers a shared load reaches one of those that make it: lines out, lines in, and its files."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ming_eval.load.plan import LoadPlan

_STOP_LIMIT_S = 10.0
_LONGEST_LINE = 2**26
COMMAND = (sys.executable, "-m", "ming_eval.load.worker")


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """A worker's monotonic clock less this process's, in seconds; it is right within `error_s` either way."""

    offset_s: float
    error_s: float


class Link(Protocol):
    """One worker process, on this host or another."""

    host: str

    async def start(self) -> None:
        """Start it; its first line can then be sent."""

    async def clock(self) -> ClockOffset:
        """Compare the clocks."""

    def folder(self, wanted: str) -> str:
        """Where the worker shall write: `wanted`, or a folder of its own host."""

    async def prepare(self, files: Mapping[str, bytes]) -> None:
        """Put into its folder what an earlier process has measured, by name; nothing where the folder is the run's."""

    async def send(self, line: bytes) -> None:
        """Give it a line."""

    async def receive(self) -> bytes:
        """Its next line; empty when it has ended."""

    async def stop(self) -> int | None:
        """Let it end by itself, or else end it; its exit code."""

    async def files(self) -> Mapping[str, bytes]:
        """What it has written, by name below its folder; nothing where it wrote to the run's own folder."""


class LocalLink:
    """A child process; it ends when this process does, since its standard input is then closed."""

    host = "localhost"

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=PIPE,
            stdout=PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # a Ctrl-C of the terminal is for the steering process alone
        )

    async def clock(self) -> ClockOffset:
        return ClockOffset(0.0, 0.0)  # CLOCK_MONOTONIC is the host's

    def folder(self, wanted: str) -> str:
        return wanted

    async def prepare(self, files: Mapping[str, bytes]) -> None:
        pass

    async def send(self, line: bytes) -> None:
        stdin = self._running.stdin
        assert stdin is not None
        try:
            stdin.write(line + b"\n")
            await stdin.drain()
        except ConnectionError:  # it has ended, which `receive` tells
            return

    async def receive(self) -> bytes:
        stdout = self._running.stdout
        assert stdout is not None
        return await stdout.readline()

    async def stop(self) -> int | None:
        process = self._process
        if process is None:
            return None
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        return process.returncode

    async def files(self) -> Mapping[str, bytes]:
        return {}

    @property
    def _running(self) -> Process:
        assert self._process is not None, "not started"
        return self._process


def check_links(plan: LoadPlan) -> None:
    """See that there can be workers of the kind that the plan asks for.

    Raises:
        UsageError: it asks for a cluster, and Ray is not installed.
    """
    if plan.cluster is not None:
        from ming_eval.load.ray_links import load_ray

        load_ray()


def find_links(plan: LoadPlan) -> list[Link]:
    """One link for each worker that the plan asks for, none of them started.

    Raises:
        UsageError: it asks for a cluster, and Ray is not installed.
        TargetError: the cluster cannot be reached.
    """
    if plan.cluster is None:
        assert plan.workers is not None
        return [LocalLink() for _ in range(plan.workers)]
    from ming_eval.load.ray_links import cluster_links

    return list(cluster_links(plan.cluster, plan.workers))
