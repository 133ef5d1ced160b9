"""Workers on the hosts of a Ray cluster. Ray places and reaches them; what they do is what a local worker does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from ming_eval.errors import TargetError, UsageError
from ming_eval.load.links import LOAD_WORKER, ClockOffset
from ming_eval.load.remote import Remote

_START_LIMIT_S = 60.0
_CLOCK_TRIES = 20
_HERE = "ray"


def cluster_links(cluster: str, count: int | None, module: str = LOAD_WORKER) -> Iterator[RayLink]:
    """`count` workers that run `module`, or one on each live host, spread over the hosts.

    Raises:
        UsageError: Ray is not installed.
        TargetError: the cluster cannot be reached.
    """
    ray = load_ray()
    try:
        ray.init(address=None if cluster == _HERE else cluster, ignore_reinit_error=True, log_to_driver=False)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    except Exception as exc:
        raise TargetError(f"cannot reach the Ray cluster {cluster!r}: {exc}") from exc
    for index in range(count or len(nodes)):
        yield RayLink(ray, nodes[index % len(nodes)], module)


def load_ray() -> Any:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("ray")
    except ImportError as exc:
        raise UsageError(
            "--workers ray needs Ray on this host and on those of the cluster: `pip install 'ming-eval[cluster]'`, "
            "or write a number of processes of this host (--workers 4)"
        ) from exc


class RayLink:
    """One worker: an actor on a given host that holds the worker process."""

    def __init__(self, ray: Any, node: str, module: str = LOAD_WORKER) -> None:
        self.host = node[:12]
        self._ray = ray
        self._node = node
        self._module = module
        self._actor: Any = None
        self._folder = ""

    async def start(self) -> None:
        place = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy(self._node, soft=False)
        # Long polls of `receive` must not hold up the other calls.
        actor = self._ray.remote(Remote).options(num_cpus=0, max_concurrency=8, scheduling_strategy=place)
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                self._actor = actor.remote(self._module)
                self.host, self._folder = await self._actor.start.remote()
        except (TimeoutError, self._ray.exceptions.RayError) as exc:
            raise TargetError(
                f"no worker on host {self.host} of the Ray cluster: {exc or 'no answer in time'}"
            ) from exc

    async def clock(self) -> ClockOffset:
        """By the quickest of some round trips: the remote reading is from its middle, or at most half of it off."""
        tries = []
        for _ in range(_CLOCK_TRIES):
            before_s = time.perf_counter()
            remote_s = await self._actor.now_s.remote()
            after_s = time.perf_counter()
            tries.append((after_s - before_s, remote_s - (before_s + after_s) / 2))
        round_trip_s, offset_s = min(tries)
        return ClockOffset(offset_s, round_trip_s / 2)

    def folder(self, wanted: str) -> str:  # noqa: ARG002 - the hosts need not share a file system
        return self._folder

    async def prepare(self, files: Mapping[str, bytes]) -> None:
        await self._actor.prepare.remote(dict(files))

    async def send(self, line: bytes) -> None:
        try:
            await self._actor.send.remote(line)
        except self._ray.exceptions.RayError:  # its host is gone, which `receive` tells
            return

    async def receive(self) -> bytes:
        try:
            line: bytes = await self._actor.receive.remote()
        except self._ray.exceptions.RayError:  # its host is gone
            return b""
        return line

    async def stop(self) -> int | None:
        if self._actor is None:
            return None
        try:
            code: int | None = await self._actor.stop.remote()
        except self._ray.exceptions.RayError:
            return None
        return code

    async def files(self) -> Mapping[str, bytes]:
        if self._actor is None:
            return {}
        try:
            found: Mapping[str, bytes] = await self._actor.files.remote()
        except self._ray.exceptions.RayError:
            return {}
        return found
