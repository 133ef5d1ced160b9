"""How the process that steers shared work reaches one of those that do it: lines out, lines in, and its files."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ming_eval import results

_STOP_LIMIT_S = 10.0
_LONGEST_LINE = 2**26
LOAD_WORKER = "ming_eval.load.worker"


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
    """A child process that runs a module; it ends when this process does, since its standard input is then closed."""

    host = "localhost"

    def __init__(self, module: str = LOAD_WORKER) -> None:
        self._module = module
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self._module),
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
        if stdin.is_closing():  # it has ended, which `receive` tells; uvloop lets nobody write then
            return
        try:
            stdin.write(line + b"\n")
            await stdin.drain()
        except ConnectionError:  # it has ended meanwhile
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


def check_links(cluster: str | None) -> None:
    """See that there can be workers in `cluster`, if any is named.

    Raises:
        UsageError: one is, and Ray is not installed.
    """
    if cluster is not None:
        from ming_eval.load.ray_links import load_ray

        load_ray()


def find_links(workers: int | None, cluster: str | None, module: str = LOAD_WORKER) -> list[Link]:
    """One link for each worker, none of them started; None are as many as the cluster has hosts.

    Raises:
        UsageError: a cluster is named, and Ray is not installed.
        TargetError: the cluster cannot be reached.
    """
    if cluster is None:
        assert workers is not None
        return [LocalLink(module) for _ in range(workers)]
    from ming_eval.load.ray_links import cluster_links

    return list(cluster_links(cluster, workers, module))


async def fetch_files(links: Sequence[Link], folder: Path) -> None:
    """Put into `folder` what workers have written elsewhere.

    Raises:
        DataError: a file cannot be written.
    """
    for link in links:
        for name, content in (await link.files()).items():
            (folder / name).parent.mkdir(exist_ok=True)
            results.write_whole(folder / name, content)
