"""Lengths in tokens as typed: fixed, uniform or normal."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ming_eval.errors import UsageError

_MOST = 10_000_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """`low` to `high`, uniform; with `deviation`, normal around their middle and cut to them."""

    low: int
    high: int
    deviation: float | None = None

    def draw(self, rng: random.Random) -> int:
        """One length."""
        if self.deviation is None:
            return rng.randint(self.low, self.high)
        drawn = rng.gauss((self.low + self.high) / 2, self.deviation)
        return min(max(round(drawn), self.low), self.high)


def parse_lengths(text: str, option: str) -> Lengths:
    """The lengths that `text` names: `512`, `128..1024` (uniform) or `512~64` (normal, within 3 deviations).

    Raises:
        UsageError: the text is none of these, or a number is out of range.
    """
    match = re.fullmatch(r"\s*(\d+)(?:(\.\.|~)(\d+))?\s*", text)
    if match is None:
        raise UsageError(f"bad {option} {text!r}: write 512, 128..1024 (uniform) or 512~64 (normal)")
    first, sign, second = int(match[1]), match[2], int(match[3] or 0)
    if sign == "~":
        found = Lengths(max(1, first - 3 * second), first + 3 * second, float(second))
    else:
        found = Lengths(first, second if sign else first)
    if not 1 <= found.low <= found.high <= _MOST:
        raise UsageError(f"bad {option} {text!r}: want 1 to {_MOST:,} tokens, and the smaller length first")
    return found
