"""The launches of a real decode step, in their order, found to be the parts of the model that they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.bench.limits import part_bytes, step_bytes
from engine.bench.parts import STAGE, Part, part_times, parts_of
from engine.bench.profile import Launch, launches_of
from engine.config import EngineConfig
from engine.kernels.paths import VARIANTS
from engine.kernels.triton_support import INTERPRET
from engine.runtime.build import LoadedEngine, load_engine
from engine.runtime.decode_graphs import DecodeRow
from engine.tiny import ensure_snapshot

STEPS = 4


@pytest.fixture(autouse=True)
def _as_served(_no_lucky_memory: None) -> None:
    """Devices by name, and new tensors unfilled: a fill is a launch that no served step makes."""
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)


class Products(TorchDispatchMode):
    """Notes the library's products among the kernels."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.linear, torch.ops.aten.mm, torch.ops.aten.silu):
            self._names.append(f"library::{func.overloadpacket.__name__}")
        return func(*args, **(kwargs or {}))


@contextmanager
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of kernels that the interpreter would run, which takes minutes: nothing here depends on what they write."""
    from triton.runtime.interpreter import InterpretedFunction

    names: list[str] = []

    def run(function: Any, *_args: Any, **_options: Any) -> None:
        names.append(function.fn.__name__)

    with monkeypatch.context() as patch, Products(names):
        patch.setattr(InterpretedFunction, "run", run)
        yield names


def launches(run: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    if not INTERPRET:
        return launches_of(run)
    with noted(monkeypatch) as names:
        run()
    return [Launch(name, float(i), i + 1.0) for i, name in enumerate(names)]


def steps(loaded: LoadedEngine, batch: int) -> None:
    """Decode steps and draws of `batch` sequences without a past, one after the other."""
    for i in range(1 + STEPS):
        rows = [DecodeRow(place, 5, i, place * 16 + i, i + 1, 0, place, 7, i, 1.0) for place in range(batch)]
        with torch.inference_mode():
            loaded.runner.graphs.run(rows, draw=True)


def loaded_engine(path: str) -> LoadedEngine:
    device = "cpu" if INTERPRET else "cuda"
    loaded = load_engine(EngineConfig(model=str(ensure_snapshot()), device=device, num_threads=1, kv_tokens=4096))
    loaded.runner.prepare_graphs([1, 2], VARIANTS[path])
    return loaded


@pytest.mark.parametrize("path", ["plain", "lean"])
def test_every_launch_of_a_step_has_its_part(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_engine(path)
    seen = launches(partial(steps, loaded, 1), monkeypatch)
    starts = [i for i, launch in enumerate(seen) if launch.kernel == STAGE]
    assert len(starts) == 1 + STEPS
    kernels = [launch.kernel for launch in seen[starts[1] : starts[2]]]
    count = Counter(parts_of(kernels))
    llm = loaded.runner.model.cfg.llm
    dense, layers = llm.first_k_dense_replace, llm.num_hidden_layers
    assert Part.OTHER not in count, list(zip(kernels, parts_of(kernels), strict=True))
    heads = 0 if path == "lean" else layers  # in attention
    assert (count[Part.HEADS], count[Part.NORMS]) == (heads, 2 * layers + 1)
    assert count[Part.ATTENTION] in (layers, 2 * layers)
    if INTERPRET:  # the GPU's library may split a product
        assert (count[Part.QKV], count[Part.OUTPUT], count[Part.HEAD]) == (layers, layers, 1)
        assert count[Part.DENSE] == 3 * dense  # two products and silu
        assert count[Part.GATE] == 2 * (layers - dense)
        assert count[Part.EXPERTS] == 2 * (layers - dense)
        assert (count[Part.ENDS], count[Part.DRAW]) == (3, 2)


def test_parts_add_up_to_the_steps_and_their_bytes_to_those_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_engine("plain")
    seen = launches(partial(steps, loaded, 2), monkeypatch)
    num_bytes = part_bytes(loaded, 2, 10.5, 12)
    rows = part_times(seen, num_bytes, 1e9)
    starts = [launch.start_us for launch in seen if launch.kernel == STAGE]
    lengths = [after - before for before, after in pairwise(starts)]
    assert min(lengths) <= sum(row.us for row in rows) <= max(lengths)
    assert all(row.us > 0 for row in rows if row.launches)
    cache = loaded.runner.caches[0]
    kept = 2 * 12 * len(loaded.runner.caches) * 2 * cache.k[0, 0].numel() * cache.k.element_size()
    whole = step_bytes(loaded).step_s(10.5, 1e9) * 1e6 + kept / 1e3
    assert sum(row.floor_us for row in rows) == pytest.approx(whole)
