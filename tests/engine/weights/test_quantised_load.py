"""Loading packed weights: the same numbers at any number of ranks, and logits close to those of the plain model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import quant_error
from engine.config import EngineConfig, Quant
from engine.errors import ConfigError
from engine.layers.quantised import Quantisable
from engine.model_config import load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.quantised import Quantised, QuantisedWeight
from engine.runtime.build import load_model, open_checkpoint
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
@pytest.mark.slow
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


@pytest.fixture(scope="module")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny geometry with experts of two groups, to be drawn."""
    tree = json.loads((tiny_model / "config.json").read_text())
    tree["llm_config"]["moe_intermediate_size"] = 256
    folder = tmp_path_factory.mktemp("wide")
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def load_drawn(path: Path, rank: int, size: int) -> Ming:
    cfg, cpu = load_model_config(path), torch.device("cpu")
    config = EngineConfig(model=str(path), load_format="generated", quant="int4", dtype="float32")
    source = open_checkpoint(config, cfg, cpu)
    return load_model(cfg, source, TensorParallel(rank, size), cpu, torch.float32, "int4")


@pytest.mark.slow
def test_int4_packs_the_experts_alone_and_alike_on_all_ranks(wide_model: Path) -> None:
    whole, ranks = load_drawn(wide_model, 0, 1), [load_drawn(wide_model, rank, 2) for rank in range(2)]
    formats = {name: m.format for name, m in whole.named_modules() if isinstance(m, QuantisedWeight)}
    assert all((format == "int4") == (".experts." in name) for name, format in formats.items())
    name = "model.layers.1.mlp.experts.w2"
    parts = [wide(model, name) for model in ranks]
    assert torch.equal(torch.cat(parts, dim=2), wide(whole, name))
    packed = whole.get_submodule(name)
    assert isinstance(packed, QuantisedWeight)
    assert packed.value.num_bytes * 8 == packed.shape.numel() * (4 + 16 / 128)  # half a byte and its share of a scale


@pytest.mark.slow
def test_error_of_int4_lies_above_that_of_fp8(wide_model: Path) -> None:
    def measured(quant: Quant) -> quant_error.QuantError:
        config = EngineConfig(model=str(wide_model), device="cpu", load_format="generated", quant=quant)
        return quant_error.measure(replace(config, dtype="float32"), num_tokens=16)

    fp8, int4 = measured("fp8"), measured("int4")
    assert int4.layers[0].weights == fp8.layers[0].weights  # dense
    for a, b in zip(fp8.layers[1:], int4.layers[1:], strict=True):
        assert 0.02 < a.weights < 0.03 < 0.09 < b.weights < 0.11
    assert fp8.logits < int4.logits
