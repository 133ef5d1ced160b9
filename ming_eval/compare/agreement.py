"""Whether two systems say the same: stored answers to the same prompts at temperature 0, text by text.

Greedy decoding on a batching server is not exactly repeatable, so two servers of one model agree often, not always:
the share at the lowest load, and how far into the text they part, tell more than the share alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from os.path import commonprefix
from statistics import median

from ming_eval.compare.likeness import Difference, check_alike, differences
from ming_eval.compare.system import PointKey, System, pair
from ming_eval.errors import DataError, UsageError
from ming_eval.metrics.stats import Interval, wilson
from ming_eval.run_folder import SavedReply, read_replies
from ming_eval.types import Task, TokenLogprob

_EXCERPT_CHARS = 24
_MAX_EXAMPLES = 5
_IRRELEVANT = "token source"  # how tokens were counted does not change what was said


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers stop to be equal: after `words` equal words and `chars` equal characters.

    Where both systems gave log probabilities, `token` is the place of the first token that differs, from 0, and the
    gaps say how close a call it was: by how much (natural logarithm) each system found its own token likelier than the
    other system's; None where the other token was not among those that it reported.
    """

    id: str
    words: int
    chars: int
    first: str
    second: str
    token: int | None = None
    first_gap: float | None = None
    second_gap: float | None = None


@dataclass(frozen=True, slots=True)
class PointAgreement:
    """Answers to the same requests at one load; failed requests count nowhere. `interval` is Wilson's, 95 %.

    `median_words` is how many words the differing answers have in common at their beginning, `median_tokens` how many
    tokens, None without such. With log probabilities, `median_gap` is over the gaps of all partings (near 0: a tie that
    rounding decides) and `logprob_difference` the mean absolute difference over the `tokens` in front of the partings:
    two servers of one model have little of it.
    """

    task: str
    concurrency: int
    rate_per_s: float | None
    pairs: int
    identical: int
    share: float
    interval: Interval
    median_words: float | None
    partings: tuple[Parting, ...]
    median_tokens: float | None = None
    median_gap: float | None = None
    tokens: int = 0
    logprob_difference: float | None = None

    @property
    def load(self) -> str:
        """The load in a word."""
        return str(PointKey(Task(self.task), self.concurrency, self.rate_per_s))


@dataclass(frozen=True, slots=True)
class Agreement:
    """`second` against `first`, by rising load; a few partings of each point are kept as examples."""

    first: str
    second: str
    differences: tuple[Difference, ...]
    points: tuple[PointAgreement, ...]


def agree_all(systems: Sequence[System], *, force: bool = False) -> list[Agreement]:
    """Every further system against the first one.

    Raises:
        UsageError: there are fewer than two systems.
        DataError: two of them were not asked the same, and `force` is not set; or no answers are stored.
    """
    if len(systems) < 2:
        raise UsageError("agreement needs two systems: name two runs, or one that measured two backends")
    first, *others = systems
    return [agree(first, other, force=force) for other in others]


def agree(first: System, second: System, *, force: bool = False) -> Agreement:
    """`second` against `first`; see `agree_all`."""
    pairs = {key: pair(first.points[key], second.points[key]) for key in first.points if key in second.points}
    found = [each for each in differences(first, second, list(pairs.values())) if each.what != _IRRELEVANT]
    check_alike(first, second, found, force=force)
    points = []
    for key, requests in pairs.items():
        ids = [a.id for a, b in zip(requests.first, requests.second, strict=True) if a.ok and b.ok]
        point = _compare_point(key, ids, _answers(first, key), _answers(second, key))
        if point is not None:
            points.append(point)
    if not points:
        raise DataError(f"{first.label} and {second.label} have no stored answers to the same requests")
    return Agreement(first.label, second.label, tuple(found), tuple(points))


def part(name: str, first: str, second: str) -> Parting | None:
    """Where two texts part, None when they are equal."""
    if first == second:
        return None
    chars = len(commonprefix([first, second]))  # noqa: RUF071 - characters are what is meant
    words = len(re.findall(r"\S+\s", first[:chars]))  # a word that has begun alike may end differently
    return Parting(name, words, chars, first[chars:][:_EXCERPT_CHARS], second[chars:][:_EXCERPT_CHARS])


def part_replies(name: str, first: SavedReply, second: SavedReply) -> Parting | None:
    """Where two answers part, with the token and the gaps where log probabilities are known."""
    found = part(name, text_of(first), text_of(second))
    if found is None or not (first.logprobs and second.logprobs):
        return found
    place = _num_equal(first.logprobs, second.logprobs)
    if place == min(len(first.logprobs), len(second.logprobs)):  # one of them has no more tokens
        return replace(found, token=place)
    one, other = first.logprobs[place], second.logprobs[place]
    return replace(found, token=place, first_gap=_gap(one, other.token), second_gap=_gap(other, one.token))


def text_of(reply: SavedReply) -> str:
    """Reasoning and text."""
    return reply.reasoning + reply.text


def _gap(own: TokenLogprob, other: str) -> float | None:
    found = own.of(other)
    return None if found is None else own.logprob - found


def _num_equal(first: Sequence[TokenLogprob], second: Sequence[TokenLogprob]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a.token != b.token), min(len(first), len(second)))


def _compare_point(
    key: PointKey, ids: Sequence[str], firsts: Mapping[str, SavedReply], seconds: Mapping[str, SavedReply]
) -> PointAgreement | None:
    shared = [name for name in ids if name in firsts and name in seconds]
    partings = [found for name in shared if (found := part_replies(name, firsts[name], seconds[name])) is not None]
    identical = len(shared) - len(partings)
    interval = wilson(identical, len(shared))
    if interval is None:
        return None
    gaps = [gap for found in partings for gap in (found.first_gap, found.second_gap) if gap is not None]
    tokens = [found.token for found in partings if found.token is not None]
    moved = [abs(a - b) for name in shared for a, b in _equal_tokens(firsts[name], seconds[name])]
    return PointAgreement(
        task=key.task.value,
        concurrency=key.concurrency,
        rate_per_s=key.rate_per_s,
        pairs=len(shared),
        identical=identical,
        share=identical / len(shared),
        interval=interval,
        median_words=median(found.words for found in partings) if partings else None,
        partings=tuple(partings[:_MAX_EXAMPLES]),
        median_tokens=median(tokens) if tokens else None,
        median_gap=median(gaps) if gaps else None,
        tokens=len(moved),
        logprob_difference=fsum(moved) / len(moved) if moved else None,
    )


def _equal_tokens(first: SavedReply, second: SavedReply) -> list[tuple[float, float]]:
    """Both systems' log probabilities of the tokens before two answers part: the same token after the same text."""
    count = _num_equal(first.logprobs, second.logprobs)
    return [(a.logprob, b.logprob) for a, b in zip(first.logprobs[:count], second.logprobs[:count], strict=True)]


def _answers(system: System, key: PointKey) -> dict[str, SavedReply]:
    """The answer to each request, by its id."""
    assert system.folder is not None, "only a stored run has answers"
    return read_replies(system.folder, system.backend.name, key.concurrency, key.rate_per_s, key.task)
