"""Golden cases of the understanding path, as the tests of one component read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.model_config import ModelConfig, load_model_config

ROOT = Path(__file__).parents[2] / "goldens" / "understanding"

# From the goldens' README: float32 on the CPU, the released code against an independent implementation.
RTOL, ATOL = 1e-4, 2e-5


@dataclass(frozen=True)
class Golden:
    """One case folder."""

    path: Path
    inputs: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]

    def config(self) -> ModelConfig:
        return load_model_config(self.path)

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.path / "model.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def sub_case(self, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Inputs and expected tensors whose names start with `name.`, without that prefix."""
        return _strip(self.inputs, name), _strip(self.expected, name)


def _strip(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


@cache
def load_golden(name: str) -> Golden:
    path = ROOT / name
    return Golden(path, load_file(path / "inputs.safetensors"), load_file(path / "expected.safetensors"))


def assert_matches(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, and each tensor within the tolerance of float32 on the CPU; integers exactly."""
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            got[name].cpu(), tensor, rtol=RTOL, atol=ATOL, msg=lambda text, n=name: f"{n}: {text}"
        )


def relative_error(got: Tensor, reference: Tensor) -> float:
    """Relative L2 error."""
    return float((got.float() - reference).norm() / reference.norm())
