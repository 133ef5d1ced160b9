"""Loading packed weights: the same numbers at any number of ranks, and logits close to those of the plain model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig, Quant
from engine.errors import ConfigError
from engine.layers.quantised import Quantisable
from engine.model_config import load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.quantised import Quantised, QuantisedWeight
from engine.runtime.build import load_model
from engine.weights.checkpoint import Checkpoint
from engine.weights.load import stored_tensors


def load(path: Path, rank: int = 0, size: int = 1, quant: Quant = "fp8") -> Ming:
    cfg = load_model_config(path)
    cpu = torch.device("cpu")
    return load_model(cfg, Checkpoint(path), TensorParallel(rank, size), cpu, torch.float32, quant)


def wide(model: Ming, name: str) -> torch.Tensor:
    found = stored_tensors(model)[name]
    assert isinstance(found, Quantised), name
    return found.dequantise(torch.float32)


def test_what_is_packed_and_what_is_not(tiny_model: Path) -> None:
    model = load(tiny_model)
    found = {name for name, module in model.named_modules() if isinstance(module, QuantisedWeight)}
    layer = "model.layers.1."
    of_a_layer = {name.removeprefix(layer) for name in found if name.startswith(layer)}
    assert of_a_layer == {
        "attention.query_key_value.weight",
        "attention.dense.weight",
        "mlp.experts.w13",
        "mlp.experts.w2",
        "mlp.shared_experts.gate_up_weight",
        "mlp.shared_experts.down_weight",
    }
    assert {"model.lm_head.weight", "model.layers.0.mlp.mlp.down_weight"} <= found
    assert all(name.startswith("model.") for name in found)  # nothing of the towers
    assert model.model.layers[1].mlp.router.gate.weight.dtype == torch.float32
    assert not isinstance(model.model.word_embeddings, Quantisable)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_hold_shares_of_the_same_packed_model(tiny_model: Path, size: int) -> None:
    whole, ranks = load(tiny_model), [load(tiny_model, rank, size) for rank in range(size)]
    layer = "model.layers.2."
    for name, dim in (
        ("attention.dense.weight", 1),
        ("mlp.experts.w2", 2),
        ("mlp.shared_experts.down_weight", 1),
    ):
        parts = [wide(model, layer + name) for model in ranks]
        assert torch.equal(torch.cat(parts, dim=dim), wide(whole, layer + name)), name
    w13 = [wide(model, layer + "mlp.experts.w13").chunk(2, dim=1) for model in ranks]
    both = torch.cat([gate for gate, _ in w13] + [up for _, up in w13], dim=1)
    assert torch.equal(both, wide(whole, layer + "mlp.experts.w13"))
    head = torch.cat([wide(model, "model.lm_head.weight") for model in ranks])
    assert torch.equal(head, wide(whole, "model.lm_head.weight"))


def test_int4_names_the_layer_that_has_no_whole_groups(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.experts: --quant int4 needs a multiple of 128 .* has 64"):
        load(tiny_model, quant="int4")


SCRIPT = """
import json, sys
from engine.config import EngineConfig
from engine.runtime.start import build_engine
from tests.engine.runtime.helpers import media_request, text_request, tokens
model, size = sys.argv[1], int(sys.argv[2])
config = EngineConfig(model=model, device="cpu", tp=size, kv_tokens=4096, num_threads=1, quant="fp8")
loop, info = build_engine(config)
print(json.dumps(tokens(loop, [text_request(1, 30), text_request(2, 7), media_request(3, [(1, 4, 4)], [30])])))
"""


@pytest.mark.slow
def test_packed_tokens_are_the_same_at_two_ranks(tiny_model: Path) -> None:
    def run(size: int) -> str:
        command = [sys.executable, "-c", SCRIPT, str(tiny_model), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert run(1) == run(2)


def test_config_default_is_plain() -> None:
    assert EngineConfig(model="x").quant == "none"
