"""Ticks at round numbers and places on the axis, by hand."""

from __future__ import annotations

import pytest

from ming_eval.report.axes import linear_axis, log_axis


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (729, (0, 200, 400, 600, 800)),
        (100, (0, 20, 40, 60, 80, 100)),
        (0.013, (0, 0.005, 0.01, 0.015)),
        (0, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_linear_ticks_are_round_and_cover_every_value(top: float, ticks: tuple[float, ...]) -> None:
    assert linear_axis([top], 0, 100).ticks == pytest.approx(ticks)


def test_places_on_a_linear_axis_that_points_up() -> None:
    axis = linear_axis([100.0], 300, 100)
    assert [axis.place(value) for value in (0.0, 50.0, 100.0)] == [300, 200, 100]


def test_equal_ratios_are_equal_steps_on_a_logarithmic_axis() -> None:
    axis = log_axis([1.0, 64.0], 0, 100, ticks=(1, 8, 64))
    one, eight, top = (axis.place(value) for value in (1.0, 8.0, 64.0))
    assert eight - one == pytest.approx(top - eight)
    assert 0 < one < top < 100
    assert axis.ticks == (1, 8, 64)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (12.0, 900.0, (20, 50, 100, 200, 500, 1000)),  # with room beyond the last value
        (0.1, 10_000.0, (0.1, 1, 10, 100, 1_000, 10_000)),
        (45.0, 97.0, (50, 60, 70, 80, 90, 100)),
    ],
)
def test_logarithmic_ticks_follow_the_span(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert log_axis([low, high], 0, 100).ticks == pytest.approx(ticks)
