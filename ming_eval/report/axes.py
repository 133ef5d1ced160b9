"""Where the ticks of an axis go, and where a value lies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_axis(values: Sequence[float], start: float, end: float, num_ticks: int = 5) -> Axis:
    """From 0 to a round number above every value."""
    top = max(values, default=1.0) or 1.0
    step = _round_step(top / num_ticks)
    count = math.ceil(top / step - 1e-9)
    return Axis(0.0, count * step, start, end, tuple(i * step for i in range(count + 1)))


def log_axis(values: Sequence[float], start: float, end: float, ticks: Sequence[float] = ()) -> Axis:
    """Around all values, with a little room; ticks at `ticks`, else at 1, 2 and 5 of each power of ten."""
    low, high = min(values), max(values)
    room = (high / low) ** 0.04 if high > low else 2.0
    low, high = low / room, high * room
    return Axis(low, high, start, end, tuple(ticks) or _decade_ticks(low, high), log=True)


def _decade_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 of each power of ten; powers alone over many decades, round steps within less than one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**decade for decade in decades]
    fine = [digit * power for power in powers for digit in (1, 2, 5) if low <= digit * power <= high]
    if len(fine) > 8:
        return tuple(power for power in powers if low <= power <= high)
    if len(fine) > 2:
        return tuple(fine)
    step = _round_step((high - low) / 6)
    return tuple(i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in _STEPS if factor * power >= step * 0.999)
