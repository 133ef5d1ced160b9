"""When requests are sent. One class per kind of load; the runner only asks for slots, due times and barriers."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Arrivals(Protocol):
    """A load shape.

    `slots` requests can be in flight at once, one connection each. `due_times_s` yields, request by request, seconds
    after the start of the point at which it is due, or None for "as soon as a slot is free". With `in_waves` a request
    waits until all requests of the `slots` before its own have ended.
    """

    @property
    def slots(self) -> int: ...

    @property
    def in_waves(self) -> bool: ...

    def due_times_s(self) -> Iterator[float | None]: ...


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` users: each sends its next request when its last one has ended."""

    concurrency: int
    in_waves: bool = False

    @property
    def slots(self) -> int:
        """One slot for each user."""
        return self.concurrency

    def due_times_s(self) -> Iterator[float | None]:
        """No request has a time of its own."""
        return itertools.repeat(None)


class Spacing(StrEnum):
    """How the gaps of an open loop are drawn."""

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests come at `rate_per_s` whether or not earlier ones have ended, as long as there is a free slot.

    `burstiness` is the shape of gamma-distributed gaps: 1 is Poisson, less is burstier (variance of a gap =
    mean^2 / burstiness). The times are a function of the fields alone; the first request is due at 0. `skip` leaves out
    as many of the first ones.
    """

    rate_per_s: float
    slots: int
    spacing: Spacing = Spacing.POISSON
    burstiness: float = 1.0
    seed: int = 0
    skip: int = 0
    in_waves: bool = False

    def due_times_s(self) -> Iterator[float]:
        """The schedule; endless."""
        return _after(itertools.accumulate(self._gaps_s(), initial=0.0), self.skip)

    def _gaps_s(self) -> Iterator[float]:
        rng = random.Random(f"arrivals {self.seed}")
        mean_s = 1 / self.rate_per_s
        while True:
            match self.spacing:
                case Spacing.CONSTANT:
                    yield mean_s
                case Spacing.POISSON:
                    yield rng.expovariate(self.rate_per_s)
                case Spacing.GAMMA:
                    yield rng.gammavariate(self.burstiness, mean_s / self.burstiness)


@dataclass(frozen=True, slots=True)
class Ramp:
    """An open loop whose rate goes evenly from `start_per_s` to `end_per_s` within `duration_s`; then it ends."""

    start_per_s: float
    end_per_s: float
    duration_s: float
    slots: int
    skip: int = 0
    in_waves: bool = False

    def due_times_s(self) -> Iterator[float]:
        """Request n is due when the area under the rate reaches n."""
        total = (self.start_per_s + self.end_per_s) / 2 * self.duration_s
        return _after(map(self._time_of, range(math.ceil(total))), self.skip)

    def _time_of(self, number: int) -> float:
        """Solve start t + slope t^2 / 2 = number for t, in the form that also holds for a slope of 0."""
        slope = (self.end_per_s - self.start_per_s) / self.duration_s
        return 2 * number / (self.start_per_s + math.sqrt(self.start_per_s**2 + 2 * slope * number)) if number else 0.0


@dataclass(frozen=True, slots=True)
class Replay:
    """Requests at the times of a recorded trace, in seconds after its first."""

    times_s: tuple[float, ...]
    slots: int
    skip: int = 0
    in_waves: bool = False

    def due_times_s(self) -> Iterator[float]:
        """As recorded."""
        return _after(iter(self.times_s), self.skip)


def _after(times_s: Iterator[float], skip: int) -> Iterator[float]:
    """The schedule behind its first `skip` requests, which an earlier process has sent; it begins at 0 again."""
    rest = itertools.islice(times_s, skip, None)
    first_s = next(rest, None)
    if first_s is not None:
        yield 0.0
        yield from (time_s - first_s for time_s in rest)
