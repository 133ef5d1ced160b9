"""Which media of a prompt are encoded, and so how far its tokens can be computed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.core.request import MediaInput


class MediaProgress:
    """Follows one request's media from asked for to encoded.

    What is encoded stays encoded (the runner keeps features until the request is dropped); what the prefix
    cache covers need not be encoded, and may have to be after a preemption.
    """

    def __init__(self, media: Sequence[MediaInput]) -> None:
        self._order = sorted(range(len(media)), key=lambda index: media[index].start)
        self._starts = [media[index].start for index in self._order]
        self._ends = [media[index].start + media[index].num_tokens for index in self._order]
        self._asked: set[int] = set()
        self._encoded: set[int] = set()
        self.restart(0)

    def restart(self, num_cached: int) -> None:
        """Begin again with the first `num_cached` tokens of the prompt already computed."""
        self._num_cached = num_cached
        self._num_ready = 0  # spans, in prompt order, that nothing waits for
        self._num_looked_at = 0  # spans that `ask` is through with
        self._advance()

    @property
    def horizon(self) -> int:
        """First position that cannot be computed yet, beyond every prompt if there is none."""
        return self._horizon

    def ask(self) -> int | None:
        """Index of the next medium to encode, in prompt order; None if all that are needed were asked for."""
        while self._num_looked_at < len(self._order):
            place = self._num_looked_at
            self._num_looked_at += 1
            index = self._order[place]
            if index not in self._asked and self._ends[place] > self._num_cached:
                self._asked.add(index)
                return index
        return None

    def mark_encoded(self, index: int) -> None:
        self._encoded.add(index)
        self._advance()

    def _advance(self) -> None:
        while self._num_ready < len(self._order) and self._is_ready(self._num_ready):
            self._num_ready += 1
        self._horizon = self._starts[self._num_ready] if self._num_ready < len(self._order) else sys.maxsize

    def _is_ready(self, place: int) -> bool:
        return self._order[place] in self._encoded or self._ends[place] <= self._num_cached
