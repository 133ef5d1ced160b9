"""Towers on shapes that come again, frames of a clip or pictures of one size, without launching each kernel anew.

A picture of 448 x 448 is some three hundred launches of a few microseconds of work each: the host is what it waits for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor

from engine.models.thinker import TowerWork

MOST_SHAPES = 16  # captured at a time; the one used longest ago goes
MOST_ROWS = 4096  # patches or mel frames: beyond them a tower has work enough to hide its launches
Capture = Callable[[Callable[[], None]], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Captured work with the tensors that it reads and writes, and whatever else it refers to."""

    source: Tensor
    out: list[Tensor]
    work: TowerWork
    replay: Callable[[], None]

    def run(self, x: Tensor) -> Tensor:
        """Its result for another input of the same shape."""
        self.source.copy_(x)
        self.replay()
        return self.out[0].clone()


class TowerGraphs:
    """Runs a shape as it is the first time, captures it the second, and replays it from then on."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._shapes: OrderedDict[Hashable, _Recorded | None] = OrderedDict()

    def __call__(self, key: Hashable | None, x: Tensor, prepare: Callable[[], TowerWork]) -> Tensor:
        """What `prepare()` makes of `x`; `key` says all that this depends on beside `x`'s values, None: too much."""
        num_rows = x.shape[0] if x.ndim == 2 else x.shape[0] * x.shape[1]
        if key is None or num_rows > MOST_ROWS:
            return prepare()(x)
        if key not in self._shapes:
            self._shapes[key] = None
            if len(self._shapes) > MOST_SHAPES:
                self._shapes.popitem(last=False)
            return prepare()(x)
        self._shapes.move_to_end(key)
        recorded = self._shapes[key]
        if recorded is None:
            recorded = self._shapes[key] = self._record(x, prepare())
        return recorded.run(x)

    def _record(self, x: Tensor, work: TowerWork) -> _Recorded:
        source = x.clone()
        out: list[Tensor] = []

        def body() -> None:
            out[:] = [work(source)]

        return _Recorded(source, out, work, self._capture(body))
