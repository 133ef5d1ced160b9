"""`inspect` and `verify` on a directory that has only the configuration and the index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.inspect import main
from tests.engine.released import NUM_ELEMENTS, NUM_TENSORS, released_config, released_names

CASE = Path(__file__).parents[1] / "goldens" / "understanding" / "g_end_to_end"
POSITIONS = "audio.positional_embedding"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """The released snapshot without its weights."""
    names = released_names()
    shards = {name: f"model-{1 + i % 42:05d}-of-00042.safetensors" for i, name in enumerate(names)}
    (tmp_path / "config.json").write_text(json.dumps(released_config()))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return tmp_path


def edit_index(snapshot: Path, remove: Sequence[str] = (), add: Sequence[str] = ()) -> None:
    index = snapshot / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    for name in remove:
        del weight_map[name]
    weight_map |= dict.fromkeys(add, "model-00001-of-00042.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.slow
def test_released_size(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(snapshot), "--tp", "2", "--memory", "141", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(family["tensors"] for family in found["families"]) == NUM_TENSORS
    assert sum(family["elements"] for family in found["families"]) == NUM_ELEMENTS
    assert len(found["missing_files"]) == 42
    assert found["problems"] == []
    # 4 key/value heads of 128 on two ranks, keys and values, 32 layers, 2 bytes.
    assert found["cache_bytes_per_token_per_rank"] == 2 * 2 * 128 * 32 * 2
    assert found["fits"] is True


@pytest.mark.slow
def test_one_device_does_not_hold_it(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = released_config()
    tree["llm_config"]["shiny"] = 1
    (snapshot / "config.json").write_text(json.dumps(tree))
    assert main(["inspect", str(snapshot), "--memory", "141"]) == 0
    said = capsys.readouterr().out
    assert "does not fit" in said
    assert "llm_config.shiny" in said, "unknown configuration keys are listed"


@pytest.mark.parametrize(("quant", "memory", "least_gb", "most_gb"), [("fp8", "139", 104, 109), ("int4", "78", 56, 60)])
@pytest.mark.slow
def test_one_device_holds_it_packed(
    snapshot: Path, capsys: pytest.CaptureFixture[str], quant: str, memory: str, least_gb: float, most_gb: float
) -> None:
    """A byte for each packed weight of 102 billion, or half a one for each of the experts' 99.9 billion."""
    assert main(["inspect", str(snapshot), "--quant", quant, "--memory", memory, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quant"] == quant
    assert found["fits"] is True
    assert least_gb < found["weight_bytes_per_rank"] / 1e9 < most_gb
    assert sum(found["parameters_per_rank"].values()) == NUM_ELEMENTS - 15000 * 1280  # the analytic table


@pytest.mark.parametrize("absent", [(), (POSITIONS,)], ids=["whole", "without its analytic table"])
@pytest.mark.slow
def test_verify_accepts_the_release(
    snapshot: Path, capsys: pytest.CaptureFixture[str], absent: tuple[str, ...]
) -> None:
    edit_index(snapshot, remove=absent)
    assert main(["verify", str(snapshot)]) == 0
    assert f"{NUM_TENSORS - len(absent)} tensors fill the model exactly" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_names_what_is_missing_and_what_is_too_much(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [
        "audio.blocks.3.attn.key.weight",
        "model.model.layers.31.mlp.experts.255.up_proj.weight",
        "model.model.layers.7.mlp.image_gate.expert_bias",
        "vision.deepstack_merger_list.2.norm.weight",
    ]
    surplus = [
        "model.model.layers.3.attention.dense.bias",
        "model.model.layers.3.mlp.experts.256.up_proj.weight",
        "talker.x",
    ]
    edit_index(snapshot, remove=missing, add=surplus)
    assert main(["verify", str(snapshot)]) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(snapshot))]
    assert said[0].endswith(f"3 tensors have no place in the model: {', '.join(surplus)}")
    assert said[1].endswith(f"4 parameters are not in the checkpoint: {', '.join(missing)}")
    assert len(said) == 2


def test_verify_reads_headers_where_files_are_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in CASE.glob("*"):
        shutil.copy(file, tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    assert "(names and shapes)" in capsys.readouterr().out
    tree = json.loads((tmp_path / "config.json").read_text())
    tree["llm_config"]["vocab_size"] += 1
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert main(["verify", str(tmp_path)]) == 1
    assert "model.lm_head.weight is (512, 64), config.json wants (513, 64)" in capsys.readouterr().out
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    assert main(["verify", str(tmp_path)]) == 2
    assert "cannot be read as safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_wants_all_files_or_none(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snapshot / "model-00001-of-00042.safetensors").touch()
    assert main(["verify", str(snapshot)]) == 1
    assert "41 of 42 weight files are not here: model-00002" in capsys.readouterr().out


def test_unusable_directory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_indivisible_tp_is_refused(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(snapshot), "--tp", "3"]) == 2
    assert "tp 3" in capsys.readouterr().err
