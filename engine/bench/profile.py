"""Which kernels decode steps launch, and when."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True, slots=True)
class Launch:
    """One run of a kernel on the device's clock."""

    kernel: str
    start_us: float
    end_us: float


@dataclass(frozen=True, slots=True)
class KernelTime:
    """All launches of one kernel, divided by the number of steps."""

    kernel: str
    launches: float
    us: float


def launches_of(run: Callable[[], None]) -> list[Launch]:
    """What `run` makes the device do, in the order in which it began."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    found = [
        Launch(_short(event.name), event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA
    ]
    return sorted(found, key=lambda launch: launch.start_us)


def kernel_times(launches: Sequence[Launch], num_steps: int) -> list[KernelTime]:
    """By kernel, of `num_steps` decode steps beside little else; the slowest first."""
    found: dict[str, list[float]] = {}
    for launch in launches:
        found.setdefault(launch.kernel, []).append(launch.end_us - launch.start_us)
    rows = [KernelTime(name, len(times) / num_steps, sum(times) / num_steps) for name, times in found.items()]
    return sorted(rows, key=lambda row: -row.us)


def _short(name: str) -> str:
    """A kernel's name without its template arguments."""
    return re.sub(r"<.*|\(.*", "", name.removeprefix("void "))[:80]
