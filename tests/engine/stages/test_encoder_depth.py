"""The check finds layers that never ran, and takes the depth with the better reconstruction."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from engine.stages.encoder_depth import DepthReport, examine, main, spectral_distance_db
from tests.engine.speech import TALKER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TALKER, tmp_path / "talker"))


def reset_layers(folder: Path, *layers: int) -> None:
    """Norms and biases as a constructor leaves them."""
    file = folder / "vae" / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if name.startswith(tuple(f"encoder.encoder.layers.{i}." for i in layers)):
            if name.endswith("norm.weight"):
                tensor.fill_(1.0)
            elif name.endswith("_proj.bias"):
                tensor.zero_()
    save_file(weights, file)


def test_untouched_layers_mean_the_released_depth(folder: Path) -> None:
    reset_layers(folder, 4, 5)
    report = examine(folder)
    assert (report.num_stored, report.untouched, report.verdict) == (6, (4, 5), "released")


def test_one_touched_layer_decides_nothing(folder: Path) -> None:
    reset_layers(folder, 4)
    report = examine(folder)
    assert (report.untouched, report.verdict) == ((4,), None)
    assert "--clip" in str(report)


def test_layers_that_run_anyway_do_not_count(folder: Path) -> None:
    reset_layers(folder, 0, 1, 2, 3)
    assert examine(folder).untouched == ()


@pytest.mark.parametrize(
    ("released", "whole", "verdict"), [(3.0, 9.0, "released"), (9.0, 3.0, "all"), (9.0, 8.5, None)]
)
def test_the_better_reconstruction_decides(released: float, whole: float, verdict: str | None) -> None:
    assert DepthReport(24, (), {"released": released, "all": whole}).verdict == verdict


def test_a_clip_is_tried_with_both_depths(folder: Path) -> None:
    clip = torch.randn(2400, generator=torch.Generator().manual_seed(0)) * 0.1
    distances = examine(folder, clip).distance_db
    assert distances.keys() == {"released", "all"}
    assert distances["released"] != distances["all"]


def test_distance_by_hand() -> None:
    """Ten times the amplitude is 20 dB; a sign or a delay of phases is nothing."""
    noise = np.random.default_rng(0).standard_normal(20_000) * 1000
    assert spectral_distance_db(noise, noise) == 0
    assert spectral_distance_db(10 * noise, noise) == pytest.approx(20, abs=0.01)
    assert spectral_distance_db(-noise, noise) == 0
    assert spectral_distance_db(noise[:100] * 1e5, noise[:100] * 1e4) == pytest.approx(20, abs=0.1)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "the weights fit: undecided" in capsys.readouterr().out
    reset_layers(folder, 4, 5)
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "clip.wav", wave, 8000)
    assert main([str(folder), "--clip", str(tmp_path / "clip.wav")]) == 0
    out = capsys.readouterr().out
    assert "2 of the 2 others" in out
    assert out.count("dB off") == 2
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no talker in it" in capsys.readouterr().err
