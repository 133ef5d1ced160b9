"""Lengths as typed."""

from __future__ import annotations

import random
from statistics import fmean, pstdev

import pytest

from ming_eval.errors import UsageError
from ming_eval.load.lengths import Lengths, parse_lengths


def draw(text: str, count: int = 4000) -> list[int]:
    rng = random.Random(1)
    lengths = parse_lengths(text, "--input-tokens")
    return [lengths.draw(rng) for _ in range(count)]


def test_fixed() -> None:
    assert set(draw("512")) == {512}


def test_uniform_reaches_both_ends() -> None:
    drawn = draw("3..7")
    assert set(drawn) == {3, 4, 5, 6, 7}
    assert fmean(drawn) == pytest.approx(5.0, abs=0.1)


def test_normal_stays_within_three_deviations() -> None:
    drawn = draw("100~10")
    assert fmean(drawn) == pytest.approx(100, abs=1)
    assert pstdev(drawn) == pytest.approx(10, abs=0.7)
    assert min(drawn) >= 70
    assert max(drawn) <= 130


def test_a_wide_normal_is_cut_at_one_token() -> None:
    assert parse_lengths("10~9", "--output-tokens") == Lengths(1, 37, 9.0)


@pytest.mark.parametrize("text", ["", "0", "a", "8..4", "0..4", "1..", "~3", "5~", "-1", "1.5", "99999999"])
def test_anything_else_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="bad --input-tokens"):
        parse_lengths(text, "--input-tokens")


def test_a_length_that_is_too_large_is_told_the_limit() -> None:
    with pytest.raises(UsageError, match="want 1 to 10,000,000 tokens"):
        parse_lengths("10000001", "--input-tokens")
