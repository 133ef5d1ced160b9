"""Work on fixed tensors, captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UPS = 2  # runs before a capture: kernels compile, libraries choose


class Capturer:
    """Captures work that runs one after the other, in memory that all of it shares."""

    def __init__(self) -> None:
        self._pool: Any = None

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What replays `work`, which has been run by then; every tensor that it does not make must be kept alive."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # No two graphs run at once, and what outlives a replay lies outside: all of them share one memory. Other
        # threads of this process (a library watching its collectives) may call the driver meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        self._pool = graph.pool()
        return graph.replay
