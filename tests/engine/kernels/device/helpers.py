"""How kernels are compared with their references."""

from __future__ import annotations

import torch
from torch import Tensor

# Order of summation, and for bfloat16 a rounding of each operand and result.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def assert_near(got: Tensor, want: Tensor) -> None:
    """Equal in shape and dtype, and close in relative L2 norm; NaN is never close."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    error = float((got.double() - want.double()).norm() / want.double().norm())
    assert error < TOLERANCE[got.dtype], f"relative error {error:.2e}"
