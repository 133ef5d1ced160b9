"""Limits that a request must meet, as typed: `ttft=500ms`, `e2e=2s`, `rtf=0.5`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ming_eval.errors import UsageError
from ming_eval.metrics.stats import LIMITS
from ming_eval.types import Task

_OF_SPEECH = frozenset({"ttfa", "rtf"})  # limits of answers that are spoken; others have no such value
_FACTORS = frozenset({"rtf"})  # limits without a unit
_SECONDS = {"ms": 1e-3, "s": 1.0}


def parse_slos(texts: Iterable[str]) -> dict[str, float]:
    """Limit by name, in seconds or as a factor.

    Raises:
        UsageError: a limit has an unknown name, no number, or the wrong unit.
    """
    found: dict[str, float] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+(?:\.\d+)?)\s*(ms|s)?\s*", text)
        if match is None:
            raise UsageError(f"bad limit {text!r}: write ttft=500ms, e2e=2s or rtf=0.5")
        name, value, unit = match.groups()
        if name not in LIMITS:
            raise UsageError(f"unknown limit {name!r}: choose from {', '.join(LIMITS)}")
        if (unit is None) != (name in _FACTORS):
            raise UsageError(f"bad limit {text!r}: " + ("rtf is a factor" if unit else "write the unit, ms or s"))
        found[name] = float(value) * (_SECONDS[unit] if unit else 1.0)
    return found


def limits_of(task: Task, slos: Mapping[str, float]) -> dict[str, float]:
    """The limits that an answer of this task can meet or miss: those of speech say nothing of text."""
    speaks = task.value[-1] == "S"
    return {name: limit for name, limit in slos.items() if speaks or name not in _OF_SPEECH}


def check_slos(slos: Mapping[str, float], tasks: Iterable[Task]) -> None:
    """Raises:
    UsageError: a limit belongs to none of the tasks.
    """
    known = {name for task in tasks for name in limits_of(task, slos)}
    if missing := sorted(slos.keys() - known):
        raise UsageError(f"--slo {missing[0]} is for answers that are spoken: add a task such as T2S, or leave it out")
