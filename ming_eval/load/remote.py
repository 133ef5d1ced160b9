"""What stands on a host of a cluster: a worker process with a folder of its own, reached through method calls."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from pathlib import Path

from ming_eval.load.links import LOAD_WORKER, LocalLink


class Remote:
    """Holds one worker process; every method may be called from another host."""

    def __init__(self, module: str = LOAD_WORKER) -> None:
        self._link = LocalLink(module)
        self._folder = tempfile.TemporaryDirectory(prefix="ming-eval-worker-")
        self._receiving = asyncio.Lock()
        self._prepared: frozenset[str] = frozenset()

    async def start(self) -> tuple[str, str]:
        """Start the process; the name of this host, and the folder that the worker writes to."""
        await self._link.start()
        return socket.gethostname(), self._folder.name

    async def now_s(self) -> float:
        """This host's monotonic clock."""
        return time.perf_counter()

    async def prepare(self, files: dict[str, bytes]) -> None:
        """Put files into the worker's folder."""
        self._prepared = frozenset(files)
        for name, content in files.items():
            (Path(self._folder.name) / name).write_bytes(content)

    async def send(self, line: bytes) -> None:
        """Give the process a line."""
        await self._link.send(line)

    async def receive(self) -> bytes:
        """Its next line; empty when it has ended."""
        async with self._receiving:
            return await self._link.receive()

    async def stop(self) -> int | None:
        """Let it end; its exit code."""
        return await self._link.stop()

    async def files(self) -> dict[str, bytes]:
        """All that the worker has written, by name below its folder."""
        root = Path(self._folder.name)
        written = [path for path in root.rglob("*") if path.is_file() and path.name not in self._prepared]
        return {str(path.relative_to(root)): path.read_bytes() for path in written}
