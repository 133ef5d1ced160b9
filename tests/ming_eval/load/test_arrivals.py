"""Schedules: by hand where they are fixed, by their moments where they are drawn."""

from __future__ import annotations

from itertools import islice, pairwise
from statistics import fmean, pvariance

import pytest

from ming_eval.load.arrivals import ClosedLoop, OpenLoop, Ramp, Replay, Spacing


def gaps(loop: OpenLoop, count: int = 20_000) -> list[float]:
    return [later - earlier for earlier, later in pairwise(islice(loop.due_times_s(), count))]


def test_closed_loop_has_no_times() -> None:
    assert list(islice(ClosedLoop(3).due_times_s(), 4)) == [None] * 4


def test_constant_rate() -> None:
    assert list(islice(OpenLoop(4.0, 8, Spacing.CONSTANT).due_times_s(), 4)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_gaps_have_a_standard_deviation_as_long_as_their_mean() -> None:
    drawn = gaps(OpenLoop(5.0, 8, Spacing.POISSON))
    assert fmean(drawn) == pytest.approx(0.2, rel=0.03)
    assert pvariance(drawn) == pytest.approx(0.04, rel=0.08)


@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_gamma_gaps_are_as_bursty_as_asked(burstiness: float) -> None:
    drawn = gaps(OpenLoop(5.0, 8, Spacing.GAMMA, burstiness))
    assert fmean(drawn) == pytest.approx(0.2, rel=0.05)
    assert pvariance(drawn) == pytest.approx(0.04 / burstiness, rel=0.12)


def test_a_schedule_is_a_function_of_its_seed() -> None:
    first, again, other = (gaps(OpenLoop(5.0, 8, seed=seed), 50) for seed in (1, 1, 2))
    assert first == again != other


def test_ramp_by_hand() -> None:
    """From 0 to 4 per second within 2 s: the area under the rate is t^2, so request n is due at sqrt(n)."""
    assert list(Ramp(0.0, 4.0, 2.0, 8).due_times_s()) == pytest.approx([0.0, 1.0, 2**0.5, 3**0.5])


def test_a_level_ramp_is_a_constant_rate() -> None:
    assert list(Ramp(2.0, 2.0, 2.0, 8).due_times_s()) == [0.0, 0.5, 1.0, 1.5]


def test_a_falling_ramp_ends_in_time() -> None:
    times = list(Ramp(9.0, 1.0, 4.0, 8).due_times_s())
    assert len(times) == 20
    assert times == sorted(times)
    assert times[-1] < 4.0


def test_what_was_sent_before_is_skipped_and_the_rest_keeps_its_gaps() -> None:
    assert list(Replay((0.0, 1.0, 1.5, 4.0), 8, skip=1).due_times_s()) == [0.0, 0.5, 3.0]
    assert list(Replay((0.0, 1.0), 8, skip=2).due_times_s()) == []
    whole = list(islice(OpenLoop(5.0, 8, seed=3).due_times_s(), 10))
    rest = list(islice(OpenLoop(5.0, 8, seed=3, skip=4).due_times_s(), 6))
    assert rest == pytest.approx([time_s - whole[4] for time_s in whole[4:]])
