"""The released configuration is read as it is; every combination that would miswire the model is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.model_config import load_model_config, parse_model_config
from tests.engine.released import released_config


def test_released_file() -> None:
    config = parse_model_config(released_config())
    assert config.llm.head_dim == 128  # derived: the file does not say
    assert config.llm.rotary_dim == 64
    assert config.llm.mrope_section == (8, 12, 12)  # a constant of the released code
    assert config.llm.routed_scaling_factor == 2.5
    assert config.llm.gate_names == ("gate", "image_gate", "audio_gate")
    assert config.vision is not None
    assert config.vision.deepstack_visual_indexes == (8, 16, 24)
    assert config.audio is not None
    assert config.audio.whisper_encoder_config.n_ctx == 15000
    assert config.unknown_keys() == []


def test_video_start_token_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = parse_model_config(released_config())
    assert config.llm.video_start_token == 157159  # kept as stored
    assert len([r for r in caplog.records if "157159" in r.message]) == 1


def test_scaling_factor_under_either_key() -> None:
    tree = released_config()
    tree["llm_config"]["routed_scaling_factor"] = 3.0
    del tree["llm_config"]["moe_router_topk_scaling_factor"]
    assert parse_model_config(tree).llm.routed_scaling_factor == 3.0


def test_unknown_keys_are_kept() -> None:
    tree = released_config()
    tree["llm_config"]["shiny"] = 1
    tree["audio_config"]["whisper_encoder_config"]["odd"] = 2
    tree["extra"] = 3
    assert parse_model_config(tree).unknown_keys() == [
        "audio_config.whisper_encoder_config.odd",
        "extra",
        "llm_config.shiny",
    ]


REFUSED: list[tuple[str, Any, str]] = [
    ("llm_config.num_attention_heads", 30, "hidden_size 4096"),
    ("llm_config.num_key_value_heads", 3, "num_key_value_heads 3"),
    ("llm_config.partial_rotary_factor", 0.0, "partial_rotary_factor"),
    ("llm_config.rope_scaling", {"type": "video_rope", "mrope_section": [8, 12, 11]}, "mrope_section"),
    ("llm_config.rope_scaling", {"type": "3D"}, "'3D'"),
    ("llm_config.n_group", 7, "n_group 7"),
    ("llm_config.topk_group", 9, "topk_group 9"),
    ("llm_config.num_experts_per_tok", 129, "num_experts_per_tok 129"),
    ("llm_config.n_group", 256, "one expert a group"),
    ("llm_config.first_k_dense_replace", 33, "first_k_dense_replace 33"),
    ("llm_config.router_type", "other", "router_type"),
    ("llm_config.eos_token_id", 157184, "eos_token_id 157184"),
    ("llm_config.image_patch_token", -1, "image_patch_token -1"),
    ("llm_config.use_qkv_bias", True, "use_qkv_bias"),
    ("llm_config.tie_word_embeddings", True, "tie_word_embeddings"),
    ("llm_config.use_sliding_window", True, "use_sliding_window"),
    ("llm_config.hidden_act", "gelu", "'gelu'"),
    ("vision_config.num_heads", 7, "num_heads 7"),
    ("vision_config.num_position_embeddings", 2303, "2303"),
    ("vision_config.hidden_act", "relu", "'relu'"),
    ("vision_config.spatial_merge_size", 3, "spatial_merge_size is 3"),
    ("vision_config.deepstack_visual_indexes", [27], "[27]"),
    ("audio_config.whisper_encoder_config", None, "whisper_encoder_config"),
    ("audio_config.ds_kernel_size", 2, "ds_kernel_size 2"),
    ("llm_config.vocab_size", None, "vocab_size"),
    ("llm_config.hidden_size", "4096", "hidden_size is '4096'"),
    ("llm_config.num_experts", True, "num_experts is True"),
    ("llm_config.num_hidden_layers", -1, "num_hidden_layers is -1"),
    ("llm_config.num_hidden_layers", 0, "num_hidden_layers is 0"),
    ("llm_config.rope_theta", "2e6", "rope_theta is '2e6'"),
    ("llm_config.head_dim", 96, "head_dim 96 with partial_rotary_factor 0.5 leaves 24"),
    ("vision_config.depth", 2.5, "depth is 2.5"),
]


@pytest.mark.parametrize(("field", "value", "named"), REFUSED, ids=[f"{f}={v}" for f, v, _ in REFUSED])
def test_miswiring_is_refused_with_field_and_value(field: str, value: Any, named: str) -> None:
    tree = released_config()
    section, key = field.split(".")
    if value is None:
        del tree[section][key]
    else:
        tree[section][key] = value
    with pytest.raises(ConfigError) as error:
        parse_model_config(tree)
    assert named in str(error.value)


def test_null_is_not_a_default() -> None:
    tree = released_config()
    tree["llm_config"]["rms_norm_eps"] = None
    with pytest.raises(ConfigError, match="rms_norm_eps is null"):
        parse_model_config(tree)
    tree = released_config()
    tree["llm_config"]["image_end_token"] = None  # may be absent, so null says the same
    assert parse_model_config(tree).llm.image_end_token is None


@pytest.mark.parametrize(("key", "value"), [("use_qk_norm", False), ("norm_head", True), ("norm_topk_prob", False)])
def test_a_switch_that_nothing_reads_is_warned_of(key: str, value: bool, caplog: pytest.LogCaptureFixture) -> None:
    tree = released_config()
    tree["llm_config"][key] = value
    with caplog.at_level(logging.WARNING):
        parse_model_config(tree)
    assert [f"llm_config.{key} is {value}" in r.getMessage() for r in caplog.records].count(True) == 1


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_model_config(tmp_path)
    file = tmp_path / "README.md"
    file.touch()
    with pytest.raises(ConfigError, match="no such file"):
        load_model_config(file)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_model_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 1}))
    with pytest.raises(ConfigError, match="llm_config"):
        load_model_config(tmp_path)
