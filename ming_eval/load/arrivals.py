"""When requests are sent. One class per kind of load; the runner only asks for slots and due times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Arrivals(Protocol):
    """A load shape.

    `slots` requests can be in flight at once, one connection each. `due_times_s` yields, request by request, seconds
    after the start of the point at which it is due, or None for "as soon as a slot is free".
    """

    @property
    def slots(self) -> int: ...

    def due_times_s(self) -> Iterator[float | None]: ...


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`concurrency` users: each sends its next request when its last one has ended."""

    concurrency: int

    @property
    def slots(self) -> int:
        """One slot for each user."""
        return self.concurrency

    def due_times_s(self) -> Iterator[float | None]:
        """No request has a time of its own."""
        return itertools.repeat(None)
