"""Comparing what the engine computed with what a case expects."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|got - expected| <= atol + rtol * |expected|; integers, booleans and strings are compared exactly."""

    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. `error` is the largest difference in units of its tolerance: 1.0 just passes."""

    name: str
    ok: bool
    error: float
    detail: str = ""


@dataclass
class CaseResult:
    """Every check of one case folder."""

    case: str
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when there was something to check and all of it held."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def worst(self) -> Check | None:
        """The failed check with the largest error, else the closest call."""
        return max(self.checks, key=lambda check: (not check.ok, check.error), default=None)

    def tensors(self, got: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: Tolerance) -> None:
        """Compare every expected tensor; one that the engine did not produce fails."""
        for name, want in expected.items():
            if name in got:
                self.checks.append(compare_tensor(name, got[name], want, tolerance))
            else:
                self.checks.append(Check(name, False, math.inf, "not produced"))

    def equal(self, name: str, got: Any, expected: Any) -> None:
        """An exact comparison of plain values."""
        same = got == expected
        self.checks.append(Check(name, same, 0.0 if same else math.inf, "" if same else f"{got!r} != {expected!r}"))

    def differs(self, name: str, got: Tensor, wrong: Tensor) -> None:
        """A control that must fail: the engine must not reproduce a known mistake."""
        same = got.shape == wrong.shape and torch.equal(got.cpu().to(wrong.dtype), wrong)
        self.checks.append(
            Check(name, not same, math.inf if same else 0.0, "reproduces the known mistake" if same else "")
        )


def compare_tensor(name: str, got: Tensor, want: Tensor, tolerance: Tolerance) -> Check:
    """Largest difference relative to the tolerance, NaN counting as failure."""
    got = got.cpu()
    if got.shape != want.shape:
        return Check(name, False, math.inf, f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    if not want.is_floating_point():
        wrong = int((got.to(want.dtype) != want).sum())
        return Check(name, wrong == 0, math.inf if wrong else 0.0, f"{wrong} of {want.numel()} differ" if wrong else "")
    difference = (got.double() - want.double()).abs()
    allowed = tolerance.atol + tolerance.rtol * want.double().abs()
    error = float((difference / allowed).max()) if want.numel() else 0.0
    ok = error <= 1.0  # False for NaN
    return Check(name, ok, error, f"largest difference {float(difference.max()) if want.numel() else 0.0:.1e}")


def load_case(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and expected outputs of a case."""
    return load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")


def load_json(path: Path) -> Any:
    """A case's JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def as_tensor(values: np.ndarray | Iterable[int]) -> Tensor:
    """A tensor of a numpy array or of Python numbers."""
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(list(values))
