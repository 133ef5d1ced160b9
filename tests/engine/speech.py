"""Speech golden cases and the tiny talker in one of them, as the tests of one component read them."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.goldens.speech_text import ByteEncoder
from engine.models.vae_encoder import EncoderDepth
from engine.stages.load import SpeechModel, load_speech

ROOT = Path(__file__).parents[1] / "goldens" / "speech"
TALKER = ROOT / "e2e_talker" / "talker"


@cache
def load_tiny(dtype: torch.dtype = torch.float32, depth: EncoderDepth = "released") -> SpeechModel:
    """The golden's talker and VAE on the CPU."""
    return load_speech(TALKER, torch.device("cpu"), dtype, depth)


@cache
def load_quick() -> SpeechModel:
    """The same with two solver steps: for tests of what goes on around the talker, not of its numbers."""
    with TemporaryDirectory() as folder:
        copied = Path(shutil.copytree(TALKER, Path(folder) / "talker"))
        config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
        (copied / "config.json").write_text(json.dumps(config | {"steps": 2}), encoding="utf-8")
        return load_speech(copied, torch.device("cpu"), torch.float32)


def load_json(case: str, name: str) -> Any:
    return json.loads((ROOT / case / name).read_text(encoding="utf-8"))


def load_tensors(case: str, name: str) -> dict[str, Tensor]:
    return load_file(ROOT / case / f"{name}.safetensors")


def byte_encoder() -> ByteEncoder:
    return ByteEncoder(load_json("e2e_talker", "request.json")["tokenizer"]["special"])


def max_error(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def relative_error(got: Tensor, reference: Tensor) -> float:
    """Relative L2 error."""
    return float((got.float() - reference.float()).norm() / reference.float().norm())
