"""Products of a few rows with plain weights."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.linear import linear
from engine.kernels.paths import VARIANTS, taking
from engine.kernels.thin import MOST_ROWS, ThinTuning, takes_thin, thin, thin_reference
from tests.engine.kernels.device.helpers import assert_near


@pytest.mark.parametrize("num_rows", [1, 3, MOST_ROWS])
@pytest.mark.parametrize(("n", "k"), [(48, 128), (37, 128), (48, 100), (3, 12)])
@pytest.mark.parametrize("tuning", [None, ThinTuning(4, 2), ThinTuning(1, 8)])
def test_product(num_rows: int, n: int, k: int, tuning: ThinTuning | None, dtype: torch.dtype) -> None:
    x, weight = torch.randn(num_rows, k, dtype=dtype), torch.randn(n, k, dtype=dtype) / k**0.5
    assert_near(thin(x, weight, tuning=tuning), thin_reference(x, weight))


def test_linear_takes_it_where_the_path_says_so(dtype: torch.dtype) -> None:
    """Into memory that is given, as the share of a sum over ranks is."""
    x, weight = torch.randn(2, 64, dtype=dtype), torch.randn(40, 64, dtype=dtype) / 8
    out = torch.empty(2, 40, dtype=dtype)
    assert not takes_thin(x, weight)
    with taking(VARIANTS["thin"]):
        assert takes_thin(x, weight)
        assert not takes_thin(x.expand(9, 2, 64).flatten(0, 1), weight)
        assert linear(x, weight, out) is out
    assert_near(out, linear(x, weight))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="thin"):
        thin(torch.randn(1, 8), torch.randn(4, 9))
    with pytest.raises(ValueError, match="thin"):
        thin(torch.randn(1, 8), torch.randn(4, 8), torch.empty(1, 8)[:, ::2])
