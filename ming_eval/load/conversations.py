"""Which requests of a point are turns of which conversation, and what the next turn says."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ming_eval.client.exchange import Exchange
from ming_eval.load.lengths import Lengths
from ming_eval.types import EventKind, Message, Request, Text, Turn


class History(StrEnum):
    """What stands between the user's turns: what the server said, or a text of our own."""

    REPLIES = "replies"
    SCRIPTED = "scripted"


@dataclass(frozen=True, slots=True)
class Layout:
    """`starts[c]` is the place of the first turn of conversation c among the `count` requests of a point."""

    starts: tuple[int, ...]
    count: int

    def turn(self, index: int) -> Turn:
        """Which turn of which conversation a request is."""
        conversation = bisect_right(self.starts, index) - 1
        start = self.starts[conversation]
        return Turn(conversation, index - start + 1, self._end(conversation) - start, index)

    def indices(self, conversation: int) -> range:
        """The requests of one conversation."""
        return range(self.starts[conversation], self._end(conversation))

    def _end(self, conversation: int) -> int:
        is_last = conversation + 1 == len(self.starts)
        return self.count if is_last else self.starts[conversation + 1]


def lay_out(turns: Lengths, count: int, seed: int, label: str) -> Layout:
    """Conversations of drawn numbers of turns, `count` requests in all: the last conversation may be cut short.

    Conversation c is as long on every system and in every repetition of a run.
    """
    rng = random.Random(f"turns {seed} {label}")
    starts, start = [], 0
    while start < count:
        starts.append(start)
        start += turns.draw(rng)
    return Layout(tuple(starts), count)


@dataclass(frozen=True, slots=True)
class Conversations:
    """What a runner needs to go on with a conversation: the later turns, how long to think, what was answered.

    `template` gives the request at a place of the point with the user's words of that turn alone. `scripted` gives the
    answer that stands in the history for the request at a place; None takes the server's own.
    """

    template: Callable[[int], Request]
    think_s: float = 0.0
    scripted: Callable[[int], str] | None = None

    def following(self, exchange: Exchange) -> Request | None:
        """The next turn; None after the last one, and where an answer has failed."""
        before = exchange.request
        if before.turn is None or before.turn.number >= before.turn.of or exchange.failure is not None:
            return None
        following = self.template(before.turn.index + 1)
        answer = answer_of(exchange) if self.scripted is None else self.scripted(before.turn.index)
        history = (*before.messages, Message("assistant", (Text(answer),)))
        return replace(following, messages=(*history, *following.messages))


def answer_of(exchange: Exchange) -> str:
    """What was said, without what was thought before it."""
    return "".join(event.text for event in exchange.events if event.kind is EventKind.TEXT)


def unbroken(layout: Layout, missing: Sequence[int]) -> list[int]:
    """Places of the first turns of conversations of which nothing was asked yet.

    A conversation that an earlier process began cannot go on: nobody knows what was in flight.
    """
    left = set(missing)
    return [
        start
        for conversation, start in enumerate(layout.starts)
        if start in left and all(index in left for index in layout.indices(conversation))
    ]
