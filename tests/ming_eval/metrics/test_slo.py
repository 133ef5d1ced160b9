"""Limits as they are typed."""

from __future__ import annotations

import pytest

from ming_eval.errors import UsageError
from ming_eval.metrics.slo import check_slos, limits_of, parse_slos
from ming_eval.types import Task


def test_units_become_seconds_and_a_factor_stays() -> None:
    assert parse_slos(["ttft=500ms", "e2e = 2 s", "rtf=0.5"]) == {"ttft": 0.5, "e2e": 2.0, "rtf": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft", "write ttft=500ms"),
        ("ttft=500", "write the unit"),
        ("rtf=1s", "rtf is a factor"),
        ("x=1s", "choose from"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_slos([text])


def test_limits_of_speech_judge_only_answers_that_are_spoken() -> None:
    """A text has no real-time factor: counted as a miss, it would bring the goodput of every text task to 0."""
    slos = {"ttft": 0.5, "rtf": 0.5}
    assert limits_of(Task.I2T, slos) == {"ttft": 0.5}
    assert limits_of(Task.T2S, slos) == slos
    check_slos(slos, (Task.T2T, Task.T2S))
    with pytest.raises(UsageError, match="--slo rtf"):
        check_slos(slos, (Task.T2T, Task.V2T))
