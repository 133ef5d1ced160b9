"""Several servers that share one list of samples: each has its own, and takes from another once that is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ming_eval.evals.answerer import Answerer, Tried
from ming_eval.evals.digest import digest
from ming_eval.evals.plan import Sample
from ming_eval.types import Request


class Seat:
    """One server: the samples that are its own, and at most `concurrency` requests at a time.

    `is_failing` is true while its last answer was no answer.
    """

    def __init__(self, answerer: Answerer, samples: Sequence[Sample], concurrency: int) -> None:
        self.answerer = answerer
        self.waiting = deque(samples)
        self.is_failing = False
        self._slots = asyncio.Semaphore(concurrency)

    async def ask(self, sample: Sample, request: Request) -> Tried:
        """One try."""
        async with self._slots:
            tried = await self.answerer.ask(sample, request)
        self.is_failing = tried.failure is not None
        return tried


class Table:
    """The servers of a run; with one it is a list of samples in order.

    A sample belongs to a server by its item's id alone, so that a run that goes on asks the same servers again. A
    server that is done takes the last sample of the one with most left, unless it is failing: it would only lose them.
    """

    def __init__(self, answerers: Sequence[Answerer], samples: Sequence[Sample], concurrency: int) -> None:
        shares: list[list[Sample]] = [[] for _ in answerers]
        for sample in samples:
            shares[int(digest(sample.item.id)[:8], 16) % len(shares)].append(sample)
        self.seats = [Seat(each, share, concurrency) for each, share in zip(answerers, shares, strict=True)]

    def take(self, seat: Seat) -> Sample | None:
        """The next sample for a server; None when there is none for it."""
        if seat.waiting:
            return seat.waiting.popleft()
        fullest = max(self.seats, key=lambda each: len(each.waiting))
        return fullest.waiting.pop() if fullest.waiting and not seat.is_failing else None

    def after(self, seat: Seat) -> Seat:
        """Who is asked when `seat` has failed: the next server that does not fail, else itself."""
        place = self.seats.index(seat)
        others = [*self.seats[place + 1 :], *self.seats[:place]]
        return next((each for each in others if not each.is_failing), seat)
