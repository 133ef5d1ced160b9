"""Loading fills every parameter from exactly the tensors that belong there, and says what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import WeightError
from engine.model_config import load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.runtime.build import load_model
from engine.weights.checkpoint import Checkpoint

CASE = Path(__file__).parents[2] / "goldens" / "understanding" / "g_end_to_end"
LAYER = "model.model.layers.1."


def load(path: Path, rank: int = 0, size: int = 1, dtype: torch.dtype = torch.float32) -> Ming:
    cfg = load_model_config(path)
    return load_model(cfg, Checkpoint(path), TensorParallel(rank, size), torch.device("cpu"), dtype)


@pytest.fixture
def stored() -> dict[str, Tensor]:
    return load_file(CASE / "model.safetensors")


def write(folder: Path, tensors: dict[str, Tensor]) -> Path:
    shutil.copy(CASE / "config.json", folder / "config.json")
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_experts_are_packed_gate_before_up(stored: dict[str, Tensor]) -> None:
    experts = load(CASE).model.layers[1].mlp.experts
    for j in (0, 7, 15):
        gate, up = experts.w13[j].chunk(2)
        assert torch.equal(gate, stored[f"{LAYER}mlp.experts.{j}.gate_proj.weight"])
        assert torch.equal(up, stored[f"{LAYER}mlp.experts.{j}.up_proj.weight"])
        assert torch.equal(experts.w2[j], stored[f"{LAYER}mlp.experts.{j}.down_proj.weight"])


def test_every_gate_has_its_own_weight_and_bias(stored: dict[str, Tensor]) -> None:
    router = load(CASE).model.layers[1].mlp.router
    for name in ("gate", "image_gate", "audio_gate"):
        assert torch.equal(getattr(router, name).weight, stored[f"{LAYER}mlp.{name}.weight"])
        assert torch.equal(getattr(router, name).expert_bias, stored[f"{LAYER}mlp.{name}.expert_bias"])


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_hold_disjoint_shares_of_everything_split(stored: dict[str, Tensor], size: int) -> None:
    ranks = [load(CASE, rank, size).model for rank in range(size)]
    dense = torch.cat([r.layers[1].attention.dense.weight for r in ranks], dim=1)
    assert torch.equal(dense, stored[f"{LAYER}attention.dense.weight"])
    assert torch.equal(torch.cat([r.lm_head.weight for r in ranks]), stored["model.lm_head.weight"])
    w2 = torch.cat([r.layers[1].mlp.experts.w2[3] for r in ranks], dim=1)
    assert torch.equal(w2, stored[f"{LAYER}mlp.experts.3.down_proj.weight"])
    up = torch.cat([r.layers[1].mlp.experts.w13[3].chunk(2)[1] for r in ranks])
    assert torch.equal(up, stored[f"{LAYER}mlp.experts.3.up_proj.weight"])


def test_query_heads_travel_with_their_key_value_head(stored: dict[str, Tensor]) -> None:
    """4 query and 2 key/value heads on 4 ranks: ranks 0, 1 copy key head 0 and ranks 2, 3 key head 1."""
    packed = stored[f"{LAYER}attention.query_key_value.weight"].view(8, 128, -1)
    for rank in range(4):
        mine = load(CASE, rank, 4).model.layers[1].attention.query_key_value.weight.view(3, 128, -1)
        wanted = torch.stack([packed[rank], packed[4 + rank // 2], packed[6 + rank // 2]])
        assert torch.equal(mine, wanted)


def test_dtype_on_request(stored: dict[str, Tensor]) -> None:
    model = load(CASE, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32  # whatever the model's dtype
    norm = stored["model.model.norm.weight"].bfloat16()
    assert torch.equal(model.model.norm.weight, norm)


@pytest.mark.parametrize(
    "name", [f"{LAYER}mlp.audio_gate.expert_bias", f"{LAYER}mlp.experts.4.up_proj.weight", "vision.blocks.0.norm1.bias"]
)
def test_missing_tensor_is_named(tmp_path: Path, stored: dict[str, Tensor], name: str) -> None:
    del stored[name]
    with pytest.raises(WeightError, match="1 parameters are not in the checkpoint"):
        load(write(tmp_path, stored))


def test_unexpected_tensor_is_named(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    with pytest.raises(WeightError, match=r"no place in the model: model\.model\.layers\.9\.norm\.weight"):
        load(write(tmp_path, stored | {"model.model.layers.9.norm.weight": torch.zeros(1)}))


def test_wrong_shape_names_both(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    with pytest.raises(WeightError, match=r"\(63,\), config.json wants \(64,\)"):
        load(write(tmp_path, stored | {"model.model.norm.weight": torch.zeros(63)}))


def test_a_tower_may_be_left_out_as_a_whole(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    text_and_audio = {k: v for k, v in stored.items() if not k.startswith(("vision.", "linear_proj."))}
    model = load(write(tmp_path, text_and_audio))
    assert model.vision_encoder is None
    assert model.audio_encoder is not None


def test_stand_alone_spelling_of_the_head_norms(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    renamed = {
        name.replace("attention.q_norm", "attention.query_layernorm").replace(
            "attention.k_norm", "attention.key_layernorm"
        ): tensor
        for name, tensor in stored.items()
    }
    model = load(write(tmp_path, renamed))
    assert torch.equal(
        model.model.layers[0].attention.q_norm.weight, stored["model.model.layers.0.attention.q_norm.weight"]
    )


def test_position_table_is_made_when_the_file_has_none(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    table = stored.pop("audio.positional_embedding")
    model = load(write(tmp_path, stored))
    assert model.audio_encoder is not None
    torch.testing.assert_close(model.audio_encoder.audio.positional_embedding, table)


def test_shards_by_index(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    shutil.copy(CASE / "config.json", tmp_path / "config.json")
    halves = [dict(list(stored.items())[i::2]) for i in range(2)]
    weight_map = {}
    for i, half in enumerate(halves):
        save_file(half, tmp_path / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(half, f"model-{i}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(load(tmp_path).model.norm.weight, stored["model.model.norm.weight"])
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(WeightError, match=r"1 weight files are missing, the first is model-1\.safetensors"):
        load(tmp_path)


def test_index_that_points_outside_is_refused(tmp_path: Path) -> None:
    index = {"weight_map": {"model.lm_head.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightError, match=r"\.\./elsewhere"):
        _ = Checkpoint(tmp_path).files


def test_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    shutil.copy(CASE / "config.json", tmp_path / "config.json")
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(WeightError, match="cannot be read as safetensors"):
        load(tmp_path)
