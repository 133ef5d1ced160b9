from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.inputs.processor_config import AudioProcessorConfig, ImageProcessorConfig, MediaConfig, load_image_config
from engine.model_config import VisionConfig, load_model_config
from tests.engine.inputs.media_files import golden

CASE_D = Path(__file__).parents[2] / "goldens" / "understanding" / "d_vision"


def write(folder: Path, tree: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


def vision(patch_size: int) -> VisionConfig:
    return VisionConfig(1, 64, 4, 128, 64, patch_size=patch_size)


def test_missing_file_means_released_values(tmp_path: Path) -> None:
    config = load_image_config(tmp_path)
    assert config == ImageProcessorConfig()
    assert (config.patch_size, config.factor, config.image_mean[0]) == (16, 32, 0.48145466)


def test_a_repackaged_file_keeps_its_own_keys_to_itself(tmp_path: Path) -> None:
    tree = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        "image_mean": [0.5, 0.5, 0.25],
        "do_resize": True,
        "image_std": None,
    }
    config = load_image_config(write(tmp_path, tree))
    assert config == ImageProcessorConfig(image_mean=(0.5, 0.5, 0.25))


def test_the_tower_decides_the_geometry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_image_config(write(tmp_path, {"patch_size": 14}), vision(16)).patch_size == 16
    assert "'patch_size': 14" in caplog.text


def test_no_warning_where_the_file_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_image_config(tmp_path, vision(8)).patch_size == 8
    assert not caplog.records


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {"patch_size": 0},
        {"patch_size": "16"},
        {"merge_size": True},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": 0.5},
        {"image_std": [0.5, 0.0, 0.5]},
    ],
)
def test_impossible_values_are_refused_with_the_file_named(tmp_path: Path, tree: Any) -> None:
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
        load_image_config(write(tmp_path, tree))


def test_broken_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_image_config(tmp_path)


def test_sizes_of_a_model_reach_the_configuration() -> None:
    model = load_model_config(CASE_D)
    assert model.vision is not None
    config = MediaConfig.load(CASE_D, model)
    assert config.image.patch_size == model.vision.patch_size
    assert config.image.merge_size == model.vision.spatial_merge_size


def test_token_counts_of_audio_match_the_golden_table() -> None:
    config = AudioProcessorConfig()
    _, expected, tables = golden()
    rows = tables["audio_lengths"]
    assert len(rows) == 20
    assert [config.num_tokens(row["mel_frames"]) for row in rows] == [row["tokens"] for row in rows]
    lengths = zip(expected["audio_feats_lengths"][0], expected["encoder_feats_lengths"][0], strict=True)
    assert all(config.num_tokens(int(frames)) == tokens for frames, tokens in lengths)


def test_token_counts_follow_the_projector() -> None:
    # 100 frames, 50 after the encoder; kernel 5, stride 3, padding 2: (50 - 5 + 4) // 3 + 1
    assert AudioProcessorConfig(ds_kernel_size=5, ds_stride=3).num_tokens(100) == 17


def test_token_count_of_a_grid() -> None:
    assert ImageProcessorConfig().num_tokens((1, 4, 6)) == 6
