"""Samples with what came for them and what it is worth; the only input of a suite's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path

from ming_eval.evals.item import Item, Kind, Outcome, Score
from ming_eval.evals.judging import judge
from ming_eval.evals.plan import Plan, Sample
from ming_eval.evals.responses import Response

RATE_KINDS = frozenset({Kind.TRANSCRIPT, Kind.SPEECH})


@dataclass(frozen=True, slots=True)
class Scored:
    """One planned reply; `response` is None where nothing was sent."""

    sample: Sample
    response: Response | None
    score: Score

    @property
    def item(self) -> Item:
        """The item as it was displayed."""
        return self.sample.item

    @property
    def is_right(self) -> float:
        """1 for a right answer, else 0."""
        return float(self.score.outcome is Outcome.CORRECT)

    @property
    def choice(self) -> int | None:
        """The original index of the choice that the reply names, whatever the order of display."""
        letter = self.score.extracted
        if not self.item.choices or letter is None or len(letter) != 1:
            return None
        index = ord(letter) - ord("A")
        return self.sample.order[index] if 0 <= index < len(self.sample.order) else None


def score_all(plan: Plan, responses: Mapping[tuple[str, int, int], Response]) -> list[Scored]:
    """Every planned reply with its score, in the order of the plan."""
    found = [(sample, responses.get(sample.key)) for sample in plan.samples]
    return [Scored(sample, response, judge(plan, sample, response)) for sample, response in found]


def count(scored: Iterable[Scored], outcome: Outcome) -> int:
    """How many replies ended so."""
    return sum(each.score.outcome is outcome for each in scored)


def clusters(scored: Sequence[Scored]) -> list[Hashable] | None:
    """What each reply depends on: the item's cluster, else the item where it was asked more than once; None if neither.

    Items without a cluster among some that have one are clusters of their own.
    """
    has_clusters = any(each.item.cluster is not None for each in scored)
    asked_again = max(Counter(each.item.id for each in scored).values(), default=0) > 1
    if not has_clusters and not asked_again:
        return None
    return [("item", each.item.id) if each.item.cluster is None else ("cluster", each.item.cluster) for each in scored]


def has_subtitles(item: Item) -> bool:
    """True when the item's subtitle file is there."""
    return item.subtitles is not None and Path(item.subtitles).exists()


def by_item(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    """Replies by the item that they are to, in the order of the plan."""
    found: dict[str, list[Scored]] = {}
    for each in scored:
        found.setdefault(each.item.id, []).append(each)
    return found


def item_means(scored: Iterable[Scored]) -> dict[str, float]:
    """Share of right replies to each item."""
    return {name: fsum(each.is_right for each in replies) / len(replies) for name, replies in by_item(scored).items()}
