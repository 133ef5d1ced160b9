"""Looks at the server and at this host's GPUs: once before a point is measured, while it is, and once after."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from ming_eval.client import probe
from ming_eval.errors import TargetError
from ming_eval.metrics.prometheus import parse_sample
from ming_eval.targets import Target
from ming_eval.types import GpuSample, ServerSample

_FIRST_S = 0.2  # a short point is seen a few times as well; each further look is twice as long after the last one, ...
_PERIOD_S = 2.0  # ... up to this
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Watcher:
    """An async context manager around what is measured. Pages are only kept meanwhile, and read afterwards.

    A server without known metrics is asked once and then left alone. GPUs are watched where NVML is installed and the
    server runs on this host. One that is not needed, since another process looks, does nothing.
    """

    def __init__(self, target: Target, zero_s: float, *, is_needed: bool = True) -> None:
        self._target = target
        self._zero_s = zero_s
        self._pages: list[tuple[float, str]] = []
        self._gpu_samples: list[GpuSample] = []
        is_here = urlsplit(target.base_url).hostname in _LOCAL_HOSTS
        self._gpus = _Gpus.of_host() if is_needed and is_here else None
        self._is_needed = is_needed
        self._is_useful = False
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._look_at_gpus()
        if self._is_needed:
            await self._look()
        self._is_useful = bool(self.server_samples())
        if self._is_useful or self._gpus is not None:
            self._ticker = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        if self._gpus is not None:
            self._gpus.close()

    async def look_again(self, *, may_ask: bool) -> None:
        """The look after the point; the server is left alone unless `may_ask`."""
        self._look_at_gpus()
        if self._is_useful and may_ask:
            await self._look()

    def server_samples(self) -> tuple[ServerSample, ...]:
        """What the pages say, in order of time."""
        samples = (parse_sample(text, time_s) for time_s, text in self._pages)
        return tuple(sample for sample in samples if sample is not None)

    def gpu_samples(self) -> tuple[GpuSample, ...]:
        """What NVML said, in order of time."""
        return tuple(self._gpu_samples)

    async def _keep_looking(self) -> None:
        pause_s = _FIRST_S
        while True:
            await asyncio.sleep(min(pause_s, _PERIOD_S))
            pause_s *= 2
            self._look_at_gpus()
            if self._is_useful:
                await self._look()

    def _look_at_gpus(self) -> None:
        if self._gpus is not None:
            self._gpu_samples.append(self._gpus.sample(time.perf_counter() - self._zero_s))

    async def _look(self) -> None:
        try:
            page = await probe.fetch_metrics(self._target)
        except TargetError:  # away for the moment; the requests will tell
            return
        if page is not None:
            self._pages.append((time.perf_counter() - self._zero_s, page))


class _Gpus:
    """The GPUs that NVML sees."""

    def __init__(self, nvml: ModuleType, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    @classmethod
    def of_host(cls) -> _Gpus | None:
        """None where NVML is not installed or there is no GPU."""
        try:
            nvml = import_module("pynvml")
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:  # no driver
            return None
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return cls(nvml, handles) if handles else None

    def sample(self, time_s: float) -> GpuSample:
        watts = sum(self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000 for handle in self._handles)
        busy = sum(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100 for handle in self._handles)
        return GpuSample(time_s, watts, busy / len(self._handles), self._energy_j())

    def _energy_j(self) -> float | None:
        """By the GPUs' own counters, which see what happens between two looks."""
        try:
            counted = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles]
            return float(sum(counted)) / 1000
        except self._nvml.NVMLError:  # older than Volta, or a driver that hides it
            return None

    def close(self) -> None:
        self._nvml.nvmlShutdown()
