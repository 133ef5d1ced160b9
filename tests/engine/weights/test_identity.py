"""A checkpoint's digest: the same wherever it lies, another one for other weights of the same shape."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.weights.identity import checkpoint_digest


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    (folder / "talker").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    generator = torch.Generator().manual_seed(0)
    save_file({"w": torch.randn(1500, 1500, generator=generator)}, folder / "model.safetensors")
    save_file({"t": torch.randn(8, generator=generator)}, folder / "talker" / "model.safetensors")
    return folder


def test_the_place_does_not_matter(snapshot: Path, tmp_path: Path) -> None:
    shutil.copytree(snapshot, tmp_path / "second")
    (tmp_path / "second" / ".cache").mkdir()
    (tmp_path / "second" / ".cache" / "fetched.json").write_text("yesterday")
    (tmp_path / "second" / "README.md").write_text("words")
    assert checkpoint_digest(tmp_path / "second") == checkpoint_digest(snapshot)


def retrain(folder: Path) -> None:
    """Every weight moves a little; names, shapes and sizes stay."""
    path = folder / "model.safetensors"
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    weights = torch.frombuffer(bytearray(path.read_bytes()[header:]), dtype=torch.float32)
    path.write_bytes(path.read_bytes()[:header] + (weights * 1.001).numpy().tobytes())


def other_talker(folder: Path) -> None:
    save_file({"t": torch.ones(8)}, folder / "talker" / "model.safetensors")


def other_config(folder: Path) -> None:
    (folder / "config.json").write_text("{ }")


def last_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", [retrain, other_talker, other_config, last_byte])
def test_what_moves_answers_moves_the_digest(snapshot: Path, change: Callable[[Path], None]) -> None:
    before = checkpoint_digest(snapshot)
    assert checkpoint_digest(snapshot) == before
    change(snapshot)
    assert checkpoint_digest(snapshot) != before
