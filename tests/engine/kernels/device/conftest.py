"""Kernel tests: on a GPU as they are, elsewhere in Triton's interpreter (see ../test_interpreted.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.kernels.triton_support import INTERPRET

ON_GPU = torch.cuda.is_available() and not INTERPRET
if not ON_GPU and not INTERPRET:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(params=["float32", "bfloat16"] if ON_GPU else ["float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The interpreter truncates bfloat16 instead of rounding it, so it is compared on a GPU only."""
    return getattr(torch, request.param)


@pytest.fixture(autouse=True)
def _no_lucky_memory() -> Iterator[None]:
    """New tensors hold NaN or huge integers, so that a cell nobody writes is seen; draws are seeded."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_device("cuda" if ON_GPU else "cpu")
    yield
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
