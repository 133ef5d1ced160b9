"""Figures per GPU and per money, by hand."""

from __future__ import annotations

import pytest

from ming_eval.report.cost import Cost, cost_grid, cost_rows
from tests.ming_eval.factories import make_point, make_summary


def test_figures_by_hand() -> None:
    """8 GPUs at 36 an hour are 0.01 a second: 1,000 tokens/s cost 10 per million, 2 requests/s 5 per thousand."""
    summary = make_summary(make_point(4, 1000.0, requests_per_s=2.0))
    (row,) = cost_rows(summary, Cost(gpus=8, price_per_hour=36.0))
    assert (row.output_tokens_per_s_per_gpu, row.requests_per_s_per_gpu) == (125.0, 0.25)
    assert row.price_per_million_output_tokens == pytest.approx(10.0)
    assert row.price_per_thousand_requests == pytest.approx(5.0)
    assert cost_grid([row]).rows == [["a", "c=4", "1000", "125", "0.250", "10.0", "5.00"]]


def test_what_is_not_given_or_not_measured_has_no_figure() -> None:
    summary = make_summary(make_point(4, None, requests_per_s=2.0))
    (row,) = cost_rows(summary, Cost(gpus=8))
    assert (row.output_tokens_per_s_per_gpu, row.requests_per_s_per_gpu) == (None, 0.25)
    assert (row.price_per_million_output_tokens, row.price_per_thousand_requests) == (None, None)
    assert not Cost()
