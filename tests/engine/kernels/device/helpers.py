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


def assert_same_choice(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    """Experts and weights [T, top k] are the same, in whatever order."""
    (ids, weights), (want_ids, want_weights) = got, want
    order, want_order = ids.argsort(dim=1), want_ids.argsort(dim=1)
    assert torch.equal(ids.gather(1, order), want_ids.gather(1, want_order))
    assert_near(weights.gather(1, order), want_weights.gather(1, want_order))
