"""Notices a server that is gone: what the last replies came to."""

from __future__ import annotations

from collections import deque

from ming_eval.evals.item import Outcome

_SIZE = 50


class ErrorWindow:
    """The last 50 replies of a suite."""

    def __init__(self) -> None:
        self._were_errors: deque[bool] = deque(maxlen=_SIZE)

    def add(self, outcome: Outcome) -> bool:
        """Take in one reply; True when there are 50 and more than half of them were errors."""
        self._were_errors.append(outcome is Outcome.ERROR)
        return len(self._were_errors) == _SIZE and sum(self._were_errors) > _SIZE / 2
