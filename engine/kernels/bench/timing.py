"""Times of GPU work: medians of graph replays, and the machine's ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Call = Callable[[int], object]  # runs one operation on one of several input sets

WARM_UP = 3
REPLAYS = 21
EAGER_RUNS = 10


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine reaches, measured: bytes read, and bfloat16 matrix operations."""

    bytes_per_s: float
    flops_per_s: float

    def limit_s(self, num_bytes: int, num_flops: int) -> float:
        """The shortest time that so many bytes and operations can take."""
        return max(num_bytes / self.bytes_per_s, num_flops / self.flops_per_s)


def replay_s(call: Call, num_sets: int) -> float:
    """Seconds of one call inside a CUDA graph that runs through all input sets, so that no set stays in the cache."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            for i in range(num_sets):
                call(i)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(num_sets):
            call(i)
    graph.replay()
    return statistics.median(_elapsed_s(graph.replay) for _ in range(REPLAYS)) / num_sets


def eager_s(call: Call, num_sets: int) -> float:
    """Seconds of one call launched from Python, waits for the host included: for references."""
    call(0)
    torch.cuda.synchronize()
    return statistics.median(_elapsed_s(partial(call, i % num_sets)) for i in range(EAGER_RUNS))


def _elapsed_s(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def measure_ceilings() -> Ceilings:
    """Read memory, and multiply two random 8192 x 8192 matrices in bfloat16."""
    product_s = eager_s(_multiply(*torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16).unbind()), 1)
    return Ceilings(measure_read(), 2 * 8192**3 / product_s)


def measure_read() -> float:
    """Bytes a second of a sum over 4 GiB, which must be free. A sum over 1 GiB comes 5 % lower, and varies by more."""
    return (1 << 32) / eager_s(_read(torch.ones(1 << 30, device="cuda")), 1)


def _read(data: Tensor) -> Call:
    return lambda _: data.sum()


def _multiply(a: Tensor, b: Tensor) -> Call:
    return lambda _: a @ b
