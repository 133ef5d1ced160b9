"""Limits that a request must meet, as typed: `ttft=500ms`, `e2e=2s`, `rtf=0.5`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ming_eval.errors import UsageError
from ming_eval.metrics.stats import LIMITS

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
