"""Towers on recorded shapes give what they give launch by launch, whatever came before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.models.thinker import Ming, TowerWork
from engine.runtime.build import load_engine
from engine.runtime.tower_graphs import MOST_ROWS, MOST_SHAPES, TowerGraphs

GRIDS = [
    [(1, 4, 6)],
    [(1, 4, 6)],
    [(2, 4, 4)],
    [(1, 4, 6)],
    [(1, 4, 4), (1, 2, 6)],
    [(1, 4, 4), (1, 4, 4)],
    [(2, 4, 4)],
]
CLIPS = [[61], [61, 61], [61], [30, 61], [61, 61]]


def recorded_once(work: Callable[[], None]) -> Callable[[], None]:
    """A capture without a GPU: the work again, on the same tensors."""
    work()
    return work


def double(x: Tensor) -> Tensor:
    return 2 * x


class Counted:
    """Prepared work, counted."""

    def __init__(self) -> None:
        self.prepared = 0

    def __call__(self) -> TowerWork:
        self.prepared += 1
        return double


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    prepare, graphs = Counted(), TowerGraphs(recorded_once)
    found = [graphs("a", torch.full((2, 3), float(i)), prepare) for i in range(4)]
    assert [x.unique().tolist() for x in found] == [[0.0], [2.0], [4.0], [6.0]]  # copies: none was written over
    assert prepare.prepared == 2  # at first sight, and for the record


def test_what_is_too_large_or_depends_on_more_is_never_recorded() -> None:
    prepare, graphs = Counted(), TowerGraphs(recorded_once)
    for key, rows in ((None, 2), ("large", MOST_ROWS + 1)):
        for _ in range(3):
            assert graphs(key, torch.ones(rows, 1), prepare).shape == (rows, 1)
    assert prepare.prepared == 6


def test_the_shape_used_longest_ago_makes_room() -> None:
    prepare, graphs = Counted(), TowerGraphs(recorded_once)
    for key in (0, 0, *range(1, MOST_SHAPES), 0, MOST_SHAPES, 0):
        graphs(key, torch.ones(1, 1), prepare)
    assert prepare.prepared == 2 + MOST_SHAPES  # shape 0 is still there
    graphs(1, torch.ones(1, 1), prepare)
    assert prepare.prepared == 3 + MOST_SHAPES  # shape 1 was not


def media(model: Ming, device: torch.device) -> Iterator[Tensor]:
    """Features of pictures, frames and clips, some sizes several times, all of other content."""
    random = torch.Generator().manual_seed(0)
    for grids in GRIDS:
        pixels = [torch.randn(t * h * w, 1536, generator=random).to(device) for t, h, w in grids]
        yield from model.encode_pixels(pixels, grids)
    for lengths in CLIPS:
        yield from model.encode_audio([torch.randn(n, 128, generator=random).to(device) for n in lengths])


@pytest.mark.slow
def test_features_on_static_tensors(tiny_model: Path) -> None:
    with torch.inference_mode():
        model = load_engine(EngineConfig(str(tiny_model), device="cpu", num_threads=1, kv_tokens=256)).runner.model
        plain = list(media(model, torch.device("cpu")))
        model.run_tower = TowerGraphs(recorded_once)
        for got, want in zip(media(model, torch.device("cpu")), plain, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_of_captured_towers(tiny_model: Path, dtype: str) -> None:
    """The served model records by itself, and features are those of single launches but for their rounding."""
    options: dict[str, Any] = {"dtype": dtype, "kv_tokens": 1024, "max_model_len": 512, "step_requests": 1}
    config = EngineConfig(str(tiny_model), device="cuda", tower_graphs=True, **options)
    with torch.inference_mode():
        model, device = (loaded := load_engine(config)).runner.model, loaded.runner.device
        assert model.run_tower is not None
        replayed = list(media(model, device))
        model.run_tower = None
        for got, want in zip(replayed, media(model, device), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5 if dtype == "float32" else 1e-2)
