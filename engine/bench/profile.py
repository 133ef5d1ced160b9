"""Where the time of decode steps goes, kernel by kernel."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True, slots=True)
class KernelTime:
    """All launches of one kernel, divided by the number of steps."""

    kernel: str
    launches: float
    us: float


def kernel_times(run: Callable[[], None], num_steps: int) -> list[KernelTime]:
    """Kernels of `run`, which makes `num_steps` decode steps beside little else; the slowest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profiler.events() or ():
        if event.device_type == DeviceType.CUDA:
            found.setdefault(_short(event.name), []).append(event.device_time)
    rows = [KernelTime(name, len(times) / num_steps, sum(times) / num_steps) for name, times in found.items()]
    return sorted(rows, key=lambda row: -row.us)


def _short(name: str) -> str:
    """A kernel's name without its template arguments."""
    return re.sub(r"<.*|\(.*", "", name.removeprefix("void "))[:80]
