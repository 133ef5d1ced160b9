"""Kernel receive stamps: how long bytes lay in the kernel before the client read its clock for them.

Linux stamps arrivals with its wall clock. The offset between that clock and the client's is sampled before, during and
after a measurement, and its drift is reported.
"""

from __future__ import annotations

import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence

Ancillary = Sequence[tuple[int, int, bytes]]

SO_TIMESTAMPNS = 35  # <asm-generic/socket.h>; Python has no name for it
ANCILLARY_BYTES = 64
IS_SUPPORTED = sys.platform == "linux" and struct.calcsize("P") == 8

_TIMESPEC = struct.Struct("=qq")
_OFFSET_TRIES = 5


class ReceiveStamps:
    """Pairs of kernel stamp and user stamp of a sampled set of connections."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._read_s = array("d")  # the client's clock
        self._waited_s = array("d")  # the client's clock less the kernel's: offset + lag
        self._offsets: list[tuple[float, float]] = []  # (client's clock, client's clock less wall clock)

    def restart(self) -> None:
        """Forget what was seen; a new measurement begins."""
        self._read_s, self._waited_s = array("d"), array("d")
        self._offsets.clear()
        self.sample_offset()

    def sample_offset(self) -> None:
        """Compare the two clocks now: the tightest of a few sandwiched readings."""
        tries = []
        for _ in range(_OFFSET_TRIES):
            before_s, wall_s, after_s = self._clock(), time.time(), self._clock()
            tries.append((after_s - before_s, (before_s + after_s) / 2, (before_s + after_s) / 2 - wall_s))
        _, now_s, offset_s = min(tries)
        self._offsets.append((now_s, offset_s))

    def add(self, ancillary: Ancillary, now_s: float) -> None:
        """Note one arrival that was read at `now_s`."""
        for _, kind, data in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
                self._read_s.append(now_s)
                self._waited_s.append(now_s - seconds - 1e-9 * nanoseconds)

    @property
    def drift_s(self) -> float | None:
        """How far the clocks moved against each other, from the first offset to the last; None with fewer than two."""
        return self._offsets[-1][1] - self._offsets[0][1] if len(self._offsets) > 1 else None

    def lags_s(self) -> list[float]:
        """Receive lag of every arrival; the offset is interpolated between its samples."""
        pairs = zip(self._read_s, self._waited_s, strict=True)
        return [max(0.0, waited_s - self._offset_at(read_s)) for read_s, waited_s in pairs]

    def _offset_at(self, now_s: float) -> float:
        place = bisect_right(self._offsets, (now_s, float("inf")))
        if place == 0 or place == len(self._offsets):
            return self._offsets[min(place, len(self._offsets) - 1)][1]
        (before_s, low), (after_s, high) = self._offsets[place - 1], self._offsets[place]
        return low + (high - low) * (now_s - before_s) / (after_s - before_s)
