"""The speech configuration is read as released, and what would miswire a model is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.talker_config import find_talker, load_speech_config, parse_dit, parse_qwen2, parse_talker, parse_vae
from tests.engine.speech import TALKER

RELEASED_VAE = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 1, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "is_causal": True,
    "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0, "use_cache": False,
    "_attn_implementation": "flash_attention_2",
}  # fmt: skip


def read(name: str) -> dict[str, Any]:
    return json.loads((TALKER / name).read_text(encoding="utf-8"))


def test_released_sizes_give_the_released_rates() -> None:
    """44,100 / 882 / 4 / 4: 3.125 steps a second, 14,112 samples each."""
    vae = parse_vae(
        {
            "sample_rate": 44100,
            "patch_size": 4,
            "enc_kwargs": {"input_dim": 882, "hop_size": 882, "latent_dim": 64, "backbone": RELEASED_VAE},
            "dec_kwargs": {"output_dim": 882, "latent_dim": 64, "backbone": RELEASED_VAE},
            "lambda_adv": 1.0,  # for training only
        }
    )
    assert vae.latent_samples * 4 == 14112
    assert (vae.encoder.window, vae.decoder.head_dim) == (64, 64)
    assert vae.encoder.unknown == {}


def test_the_tiny_talker() -> None:
    config = load_speech_config(TALKER)
    assert config.patch_samples == 4 * 4 * 24
    assert config.patch_s == pytest.approx(0.16)
    assert config.talker.llm.window is None  # sliding_window is given, use_sliding_window is not set
    assert config.talker.cond_dim == 64
    assert config.talker.flowmodel.unknown == {}


def test_condition_width_defaults_to_the_language_model() -> None:
    tree = read("config.json")
    del tree["flowmodel"]["llm_cond_dim"]
    assert parse_talker(tree, read("llm/config.json")).cond_dim == 64


def change(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, key = path.split("/")
    inner = tree
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flowmodel", None, "flowmodel is missing"),
        ("steps", None, "steps is missing"),
        ("flowmodel/spk_dim", 192, "spk_dim is 192"),
        ("flowmodel/qk_norm", "rms_norm", "qk_norm is 'rms_norm'"),
        ("aggregator/attn_mask_enabled", True, "attn_mask_enabled is True"),
        ("flowmodel/num_heads", 5, "no even head width"),
        ("flowmodel/depth", None, "depth missing"),
        ("flowmodel/llm_cond_dim", 65, "llm_cond_dim 65 is not the hidden_size 64"),
        ("history_patch_size", 2, "the history must hold one patch"),
    ],
)
def test_a_talker_that_cannot_be_wired_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_talker(change(read("config.json"), path, value), read("llm/config.json"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("dec_kwargs/output_dim", 48, "output_dim is 48, the other side of the VAE needs 24"),
        ("enc_kwargs/input_dim", 80, "input_dim is 80"),
        ("dec_kwargs/latent_dim", 32, "latent_dim is 32"),
        ("dec_kwargs/backbone/use_sliding_window", False, "no sliding window; full attention gives other audio"),
        ("enc_kwargs/backbone/max_window_layers", 2, "max_window_layers is 2"),
        ("enc_kwargs/backbone/is_causal", False, "is_causal is False"),
        ("enc_kwargs/backbone/rope_theta", None, "rope_theta missing"),
        ("sample_rate", None, "sample_rate is missing"),
    ],
)
def test_a_vae_that_cannot_be_wired_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_vae(change(read("vae/config.json"), path, value))


def test_heads_must_share_keys_evenly() -> None:
    with pytest.raises(ConfigError, match="3 heads and 2 key/value heads"):
        parse_qwen2({**RELEASED_VAE, "num_attention_heads": 3, "hidden_size": 96}, "x")


def test_an_unknown_key_is_kept() -> None:
    tree = read("config.json")["aggregator"] | {"new": 1}
    assert parse_dit(tree, "aggregator").unknown == {"new": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("", "llm", "vae"):
        (tmp_path / "talker" / part).mkdir(exist_ok=True)
        shutil.copy(TALKER / part / "config.json", tmp_path / "talker" / part / "config.json")
    return tmp_path / "talker"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "no such file; the speech part of the checkpoint is incomplete"),
        (lambda file: file.write_text("{"), "not valid JSON"),
        (lambda file: file.write_text("[]"), "holds no JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "llm/config.json", "vae/config.json"])
def test_a_damaged_file_is_one_clear_error(
    folder: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder / name)
    with pytest.raises(ConfigError, match=message):
        load_speech_config(folder)


def test_talker_and_vae_must_speak_of_the_same_latents(folder: Path) -> None:
    tree = read("config.json")
    tree["aggregator"]["in_channels"] = 32
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"aggregator\.in_channels 32 is not the latent_dim 64"):
        load_speech_config(folder)


def test_the_talker_is_found_in_a_snapshot_or_alone(folder: Path, tmp_path: Path) -> None:
    assert find_talker(folder.parent) == folder
    assert find_talker(folder) == folder
    (tmp_path / "other").mkdir()
    assert find_talker(tmp_path / "other") is None
    (tmp_path / "other" / "config.json").write_text('{"llm_config": {}}')
    assert find_talker(tmp_path / "other") is None
