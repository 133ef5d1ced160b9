"""Products of some rows with plain weights, in parts that the last program adds."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.few_rows import MOST_ROWS, FewRowsTuning, few_rows, few_rows_reference, takes_few_rows
from engine.kernels.linear import linear
from engine.kernels.paths import VARIANTS, taking
from tests.engine.kernels.device.helpers import assert_near

TUNINGS = {"parts": FewRowsTuning(16, 16, 32, num_stages=2), "whole": FewRowsTuning(32, 32, 1024, num_stages=2)}


@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
@pytest.mark.parametrize(("num_rows", "n", "k"), [(3, 48, 96), (17, 33, 100), (MOST_ROWS, 16, 64)])
def test_products(num_rows: int, n: int, k: int, tuning: FewRowsTuning, dtype: torch.dtype) -> None:
    """Twice, so that counters must have been set back; into a given place too."""
    x, weight = torch.randn(num_rows, k, dtype=dtype), torch.randn(n, k, dtype=dtype) / k**0.5
    want = few_rows_reference(x, weight)
    first = few_rows(x, weight, tuning=tuning)
    assert_near(first, want)
    place = torch.empty(num_rows, n, dtype=dtype)
    assert few_rows(x, weight, place, tuning) is place
    assert torch.equal(place, first)


def test_by_its_path_alone() -> None:
    x, weight = torch.randn(5, 64), torch.randn(48, 64) / 8
    assert not takes_few_rows(x, weight)
    with taking(VARIANTS["rows"]):
        assert takes_few_rows(x, weight)
        assert not takes_few_rows(torch.randn(MOST_ROWS + 1, 64), weight)
        assert not takes_few_rows(x, torch.randn(64, 48).t())
        assert_near(linear(x, weight), few_rows_reference(x, weight))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="few_rows"):
        few_rows(torch.randn(3, 64), torch.randn(48, 32))
    with pytest.raises(ValueError, match="at most"):
        few_rows(torch.randn(MOST_ROWS + 1, 64), torch.randn(48, 64))
