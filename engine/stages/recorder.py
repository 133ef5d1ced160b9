"""Work on fixed tensors, run as it is or recorded once and replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch

Body = Callable[[], object]


class Recorder(Protocol):
    """Runs bodies that read and write the same tensors every time; `pads` says that few shapes are better than fit."""

    pads: bool

    def run(self, key: Hashable, body: Body) -> None:
        """Do `body`'s work once; of all bodies with one key the first stands for the others."""


class Direct:
    """No recording. With `pads` the shapes are those that a recorder would be given."""

    def __init__(self, pads: bool = False) -> None:
        self.pads = pads

    def run(self, key: Hashable, body: Body) -> None:
        """Call it."""
        del key
        body()


class CudaGraphs:
    """One graph for each key. Its first run is a plain call, which also sets up libraries and compiles kernels."""

    pads = True

    def __init__(self) -> None:
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()  # shared: graphs run one after another, outputs are copied out

    def run(self, key: Hashable, body: Body) -> None:
        """Replay the graph of `key`, or call `body` and record it for the next time."""
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        self._call_aside(body)
        self._graphs[key] = self._record(body)

    def _call_aside(self, body: Body) -> None:
        """On a stream of its own, as libraries want it before a capture."""
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            body()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def _record(self, body: Body) -> torch.cuda.CUDAGraph:
        """Recording runs nothing."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            body()
        return graph


def make_recorder(device: torch.device) -> Recorder:
    """Graphs on a GPU, none elsewhere."""
    return CudaGraphs() if device.type == "cuda" else Direct()


def padded_sizes(most: int) -> tuple[int, ...]:
    """Powers of two below `most`, then `most`: one graph for each."""
    return (*(1 << n for n in range((most - 1).bit_length())), most)


def pad(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of the ascending `sizes` that holds `count`."""
    return next(size for size in sizes if size >= count)
