"""Whether the engine's queue has room for one more request, and when to come back if not."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import InvalidRequest, Overloaded

_MIN_RETRY_S, _MAX_RETRY_S = 1, 60


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`num_running` requests run at once, `num_waiting` more may wait, with `num_tokens` prompt tokens in all."""

    num_running: int
    num_waiting: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What is in the engine now; `num_unseen` are requests sent after it last reported."""

    num_running: int
    num_waiting: int
    num_unseen: int
    waiting_tokens: int

    def num_queued(self, num_new: int, limits: QueueLimits) -> int:
        """How many would wait if `num_new` came; free places are only taken when nobody waits for them already."""
        free = limits.num_running - self.num_running if self.num_waiting == 0 else 0
        return max(0, self.num_waiting + self.num_unseen + num_new - max(0, free))


class DrainRate:
    """How fast requests leave the queue: over the last few of them, and no longer than there has been a queue."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=64)
        self._since_s = clock()

    def restart(self) -> None:
        """Nobody waits: what comes now begins a new queue, and idle time before it says nothing about it."""
        self._times.clear()
        self._since_s = self._clock()

    def note(self) -> None:
        """One request left the queue now."""
        if len(self._times) == self._times.maxlen:
            self._since_s = self._times[0]
        self._times.append(self._clock())

    def retry_after_s(self, num_waiting: int) -> int:
        """Seconds until a queue of this length is empty, within 1 to 60; as if one left now where none has yet."""
        elapsed_s = self._clock() - self._since_s
        estimate_s = math.ceil(num_waiting * elapsed_s / max(1, len(self._times)))
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, estimate_s))


def check_room(num_preparing: int, load: QueueLoad, limits: QueueLimits, drain: DrainRate) -> None:
    """At the door, before a byte of the body is read: is there a place for one sequence more?

    Raises:
        Overloaded: `num_preparing` requests and those in the engine leave none.
    """
    if load.num_queued(num_preparing + 1, limits) > limits.num_waiting:
        raise _queue_full(load, drain)


def admit(num_requests: int, num_tokens: int, load: QueueLoad, limits: QueueLimits, drain: DrainRate) -> None:
    """Let `num_requests` sequences with `num_tokens` prompt tokens in.

    Raises:
        InvalidRequest: not even an idle server would take them.
        Overloaded: the queue is full now.
    """
    largest = limits.num_running + limits.num_waiting
    if num_requests > largest:
        raise InvalidRequest(f"prompts x n is {num_requests} sequences, this server takes at most {largest}", param="n")
    num_queued = load.num_queued(num_requests, limits)
    tokens_fit = load.waiting_tokens == 0 or load.waiting_tokens + num_tokens <= limits.num_tokens
    if num_queued > limits.num_waiting or not tokens_fit:
        raise _queue_full(load, drain)


def _queue_full(load: QueueLoad, drain: DrainRate) -> Overloaded:
    retry_after_s = drain.retry_after_s(load.num_waiting + load.num_unseen)
    return Overloaded("The queue is full. Try again later.", retry_after_s=retry_after_s)
