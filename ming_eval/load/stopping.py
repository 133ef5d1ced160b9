"""When a point has seen enough, other than by the number of its requests."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ming_eval.metrics import latency
from ming_eval.types import RequestRecord

_Z_95 = 1.959963984540054
_FEWEST_FOR_RATE = 20
_FEWEST_FOR_INTERVAL = 32


@dataclass(frozen=True, slots=True)
class StopRules:
    """`duration_s`: nothing is sent after it. `error_rate`: share of failures among 20 or more requests.

    `until_ci`: half the width of the 95 % interval of the mean E2E, as a share of that mean, over 32 or more requests.
    In a closed loop throughput is concurrency over mean E2E, so its interval is as narrow.
    """

    duration_s: float | None = None
    error_rate: float | None = None
    until_ci: float | None = None


class Stopper:
    """Follows a point and says when to send nothing more; `reason` is then the rule that was met."""

    def __init__(self, rules: StopRules) -> None:
        self.reason: str | None = None
        self._met: str | None = None  # a rule other than the time
        self._rules = rules
        self._deadline_s: float | None = None
        self._num_ended = 0
        self._num_failed = 0
        self._e2e = _Running()

    def should_stop(self, due_s: float | None = None) -> bool:
        """True when this request shall not be sent; `due_s` is when it is due on the client's clock.

        The first call starts the time. A request that is due too late says nothing about those that are due before it
        and wait beside it: only the other rules end a point for all.
        """
        now_s = time.perf_counter()
        if self._deadline_s is None:
            self._deadline_s = math.inf if self._rules.duration_s is None else now_s + self._rules.duration_s
        if self._met is None and max(now_s, due_s or 0.0) >= self._deadline_s:
            self.reason = f"after {self._rules.duration_s:g} s"
            return True
        return self._met is not None

    def see(self, record: RequestRecord) -> None:
        """Take in a request that has ended."""
        self._num_ended += 1
        self._num_failed += not record.ok
        if (e2e_s := latency.e2e_s(record)) is not None:
            self._e2e.add(e2e_s)
        if self._met is None:
            self._met = self._check_errors() or self._check_interval()
            self.reason = self._met or self.reason

    def _check_errors(self) -> str | None:
        limit = self._rules.error_rate
        if limit is None or self._num_ended < _FEWEST_FOR_RATE or self._num_failed <= limit * self._num_ended:
            return None
        return f"{self._num_failed} of {self._num_ended} requests failed, more than {100 * limit:g} %"

    def _check_interval(self) -> str | None:
        limit = self._rules.until_ci
        if limit is None or self._e2e.count < _FEWEST_FOR_INTERVAL:
            return None
        half = self._e2e.relative_half_width()
        return f"mean E2E known to {100 * half:.2g} %" if half <= limit else None


class _Running:
    """Mean and variance of a growing sample (Welford)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        delta = value - self._mean
        self._mean += delta / self.count
        self._squares += delta * (value - self._mean)

    def relative_half_width(self) -> float:
        """Half the 95 % interval of the mean, over the mean."""
        variance = self._squares / (self.count - 1)
        return _Z_95 * math.sqrt(variance / self.count) / self._mean if self._mean else math.inf
