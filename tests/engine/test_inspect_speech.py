"""`inspect` and `verify` of a talker: complete, with a tensor less, of a wrong shape, alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.inspect import main
from tests.engine.speech import TALKER


@pytest.fixture
def talker(tmp_path: Path) -> Path:
    """The golden's talker with a tokenizer file and a preset; only the place of the tokenizer is looked at."""
    folder = tmp_path / "talker"
    shutil.copytree(TALKER, folder)
    (folder / "llm" / "tokenizer.json").write_text("{}")
    (folder / "data").mkdir()
    (folder / "data" / "voice_name.json").write_text('{"DB30": {}, "lingguang": {}}')
    return folder


def change(file: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors | ({} if tensor is None else {name: tensor}), file)


def test_a_talker_alone(talker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(talker)]) == 0
    assert "tensors fill talker and audio VAE (names and shapes)" in capsys.readouterr().out
    assert main(["inspect", str(talker), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)["speech"]
    assert (found["problems"], found["voices"], found["speaker_encoder"]) == ([], ["DB30", "lingguang"], False)
    assert found["encoder_depth"] == {"stored": 6, "untouched": [], "fits": None}
    assert main(["inspect", str(talker)]) == 0
    assert "undecided; a clip of clean speech decides it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "name", "tensor", "message"),
    [
        ("model.safetensors", "stop_head.bias", None, "1 parameters of the talker are in no file"),
        ("model.safetensors", "stop_head.bias", torch.zeros(3), "stop_head.bias is (3,), the configuration wants (2,)"),
        ("vae/model.safetensors", "decoder.fc1.bias", None, "no complete audio VAE"),
    ],
)
def test_what_is_wrong_is_named(
    talker: Path, file: str, name: str, tensor: torch.Tensor | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(talker / file, name, tensor)
    assert main(["verify", str(talker)]) == 1
    out = capsys.readouterr().out
    assert message in out
    assert name in out


def test_untouched_layers_are_reported(talker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = talker / "vae" / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.startswith(("encoder.encoder.layers.4.", "encoder.encoder.layers.5.")):
            if name.endswith("norm.weight"):
                tensor.fill_(1)
            elif name.endswith("_proj.bias"):
                tensor.zero_()
    save_file(tensors, file)
    assert main(["inspect", str(talker)]) == 0
    out = capsys.readouterr().out
    assert "2 of the 2 others still have their initial norms and biases" in out
    assert "the weights fit: released" in out


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_without_a_path_it_is_the_tiny_model(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command]) == 0
    out = capsys.readouterr().out
    assert "ming-flash-omni-2.0-tiny" in out
    assert "talker" in out
