"""Conditions as typed, and which comparisons they fail."""

from __future__ import annotations

import numpy as np
import pytest

from ming_eval.compare.comparison import Comparison, compare
from ming_eval.compare.gate import Condition, crossings
from ming_eval.errors import DataError, UsageError
from tests.ming_eval.compare.simulation import World, simulate

WORLD = World(concurrencies=(2,), num_requests=64)


def slower_by(share: float, world: World = WORLD) -> Comparison:
    """Each request takes `share` longer; nothing is left to chance."""
    first, second = (simulate(world, np.random.default_rng(0), name=name, slowdown=s) for name, s in _pair(share))
    return compare(first, second)


def _pair(share: float) -> list[tuple[str, float]]:
    return [("a", 1.0), ("b", 1.0 + share)]


@pytest.mark.parametrize(
    ("text", "slowdown", "fails"),
    [
        ("ttft_ms.p99>+5%", 0.06, True),
        ("ttft_ms.p99>+5%", 0.04, False),
        ("ttft_ms.p99 > +5 %", 0.06, True),
        ("output_tokens_per_s<-5%", 0.06, True),
        ("output_tokens_per_s<-5%", 0.04, False),
        ("output_tokens_per_s>+5%", 0.06, False),
        ("e2e_ms.p50>1030", 0.10, True),
        ("e2e_ms.p50>1030", -0.10, False),
    ],
)
def test_limits_are_crossed_by_what_was_measured(text: str, slowdown: float, fails: bool) -> None:
    found = crossings([Condition.parse(text)], [slower_by(slowdown)])
    assert [crossing.is_shown for crossing in found] == ([True] if fails else [])


def test_a_crossing_that_chance_explains_does_not_count() -> None:
    """Eight requests with wild times; the second system's are drawn anew and happen to be 8 % slower."""
    world = World(concurrencies=(1,), num_requests=16, cv=0.4)
    for seed in range(100):
        source = np.random.default_rng(seed)
        found = compare(simulate(world, source), simulate(world, source, name="b"))
        crossed = crossings([Condition.parse("e2e_ms.p50>+8%")], [found])
        if crossed and not crossed[0].is_shown:
            assert "not counted" in str(crossed[0])
            return
    pytest.fail("no simulated run crossed the limit by chance")


@pytest.mark.parametrize(
    "text", ["ttft_ms.p99", "ttft_ms.p99>5 %", "ttft_ms.p98>+5%", "speed<-5%", ">+5%", "itl_ms>+5%"]
)
def test_conditions_without_meaning_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Condition.parse(text)


def test_a_figure_that_nobody_measured_does_not_pass() -> None:
    with pytest.raises(DataError, match="cannot be judged"):
        crossings([Condition.parse("ttfa_ms.p50>+5%")], [slower_by(0.0)])
