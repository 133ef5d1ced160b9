"""Which part of a load one process makes: a function of position alone, so that request i is the same for any number.

Slot s of a point belongs to process s mod n, and a request to the process of the slot that it would have had, had all
requests taken equally long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, TypeVar

from ming_eval.load.arrivals import Arrivals

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """Process `index` of `count`; the whole load by default."""

    index: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        """True for the only process."""
        return self.count == 1

    def num_slots(self, slots: int) -> int:
        """How many of the slots of a point belong to this process."""
        return len(range(self.index, slots, self.count))

    def slot(self, own: int) -> int:
        """The number in the whole load of this process's slot `own`."""
        return own * self.count + self.index

    def owns(self, position: int, slots: int) -> bool:
        """True for a request of this process."""
        return position % slots % self.count == self.index

    def take(self, values: Sequence[T], slots: int) -> Sequence[T]:
        """This process's part of what all processes see alike."""
        if self.is_whole:
            return values
        return [value for position, value in enumerate(values) if self.owns(position, slots)]


@dataclass(frozen=True, slots=True)
class Sliced:
    """One process's part of a load shape: its slots, and the due times of its requests."""

    whole: Arrivals
    share: Share

    @property
    def slots(self) -> int:
        """This process's slots."""
        return self.share.num_slots(self.whole.slots)

    @property
    def in_waves(self) -> bool:
        """As the whole; a wave needs all of its slots in one process."""
        return self.whole.in_waves

    def due_times_s(self) -> Iterator[float | None]:
        """On the clock of the whole load."""
        slots = self.whole.slots
        times_s = zip(count(), self.whole.due_times_s(), strict=False)
        return (time_s for position, time_s in times_s if self.share.owns(position, slots))


class Gate(Protocol):
    """Where processes that share a load wait for each other; never while something is measured."""

    async def wait(self) -> None:
        """Return when all have come, in all of them at the same moment."""


class OpenGate:
    """For a process that is alone."""

    async def wait(self) -> None:
        """Return at once."""
