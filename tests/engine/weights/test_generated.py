"""Drawn weights: names and shapes of the release, scales that spread the routing, the same model at any tp."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.inputs.tokenizer import Tokenizer
from engine.model_config import load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.released import ensure_geometry
from engine.runtime.build import load_model, open_checkpoint
from engine.weights.generated import GeneratedCheckpoint, draw
from tests.engine import released

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_geometry(tmp_path_factory.mktemp("cache"))


def open_generated(path: Path) -> GeneratedCheckpoint:
    found = open_checkpoint(EngineConfig(str(path), load_format="generated"), load_model_config(path), CPU)
    assert isinstance(found, GeneratedCheckpoint)
    return found


def load(path: Path, rank: int, size: int) -> Ming:
    cfg = load_model_config(path)
    return load_model(cfg, open_generated(path), TensorParallel(rank, size), CPU, torch.float32)


@pytest.mark.slow
def test_it_has_every_tensor_of_the_release(geometry: Path) -> None:
    shapes = open_generated(geometry).shapes
    analytic = "audio.positional_embedding"  # [15000, 1280], which the engine computes
    assert set(shapes) == set(released.released_names()) - {analytic}
    assert sum(prod(shape) for shape in shapes.values()) == released.NUM_ELEMENTS - 15000 * 1280
    assert shapes["model.model.layers.7.mlp.experts.255.down_proj.weight"] == (4096, 1024)


def test_scales_follow_the_kind_of_tensor() -> None:
    assert torch.equal(draw("x.input_layernorm.weight", (8,), 0, CPU, torch.float32), torch.ones(8))
    assert torch.equal(draw("x.mlp.gate.expert_bias", (8,), 0, CPU, torch.float32), torch.zeros(8))
    weight = draw("x.proj.weight", (512, 256), 0, CPU, torch.float32)
    assert float(weight.std()) == pytest.approx(256**-0.5, rel=0.02)
    assert not torch.equal(weight, draw("y.proj.weight", (512, 256), 0, CPU, torch.float32))
    assert not torch.equal(weight, draw("x.proj.weight", (512, 256), 1, CPU, torch.float32))
    assert torch.equal(weight, draw("x.proj.weight", (512, 256), 0, CPU, torch.float32))


@pytest.mark.slow
def test_ranks_hold_shares_of_one_model(tiny_model: Path) -> None:
    whole, second = load(tiny_model, 0, 1), load(tiny_model, 1, 2)
    mine, other = whole.model.layers[1].mlp, second.model.layers[1].mlp
    assert torch.equal(mine.router.gate.weight, other.router.gate.weight)
    gate, up = mine.experts.w13.chunk(2, dim=1)
    assert torch.equal(torch.cat((gate.chunk(2, 1)[1], up.chunk(2, 1)[1]), dim=1), other.experts.w13)
    assert torch.equal(mine.experts.w2.chunk(2, dim=2)[1], other.experts.w2)


@pytest.mark.slow
def test_every_id_below_the_unused_rows_has_a_spelling(geometry: Path) -> None:
    """A drawn model says any id, and a stream without text would have no first token."""
    tokenizer = Tokenizer.load(geometry)
    assert {tokenizer.decode([i]) for i in (2500, 100_000, 156_890)} == {" #2500", " #100000", " #156890"}
