"""An item and its reply -> what the reply is worth, by the kind of the item's answer."""

from __future__ import annotations

from dataclasses import replace

from ming_eval.errors import DataError
from ming_eval.evals.item import Item, Kind, Outcome, Reply, Score
from ming_eval.evals.scoring.choice import score_choice
from ming_eval.evals.scoring.label import score_label
from ming_eval.evals.scoring.number import score_number
from ming_eval.evals.scoring.speech import Spoken, nothing_heard, score_speech
from ming_eval.evals.scoring.text import TEXT_METRICS, score_text
from ming_eval.evals.scoring.transcript import has_reference, score_transcript
from ming_eval.evals.scoring.verify import instructions_of, score_instructions
from ming_eval.evals.suite import Scoring, Suite

# Raised when a rule changes what some reply is worth; part of a protocol's digest.
SCORING_VERSIONS: dict[Kind, int] = dict.fromkeys(Kind, 1) | {
    Kind.MCQ: 2,
    Kind.NUMBER: 2,
    Kind.TEXT: 2,
    Kind.TRANSCRIPT: 2,
    Kind.VERIFY: 2,
}

_DEFAULT_NORMALISER = "english"


def score(item: Item, reply: Reply, kind: Kind, scoring: Scoring, spoken: Spoken | None = None) -> Score:
    """The score of `reply`; `kind` and `scoring` are the suite's, `spoken` is there for speech."""
    match item.kind or kind:
        case Kind.MCQ:
            return score_choice(item, reply, scoring.answer_map)
        case Kind.NUMBER:
            return score_number(item, reply, scoring.tolerance)
        case Kind.TEXT:
            return score_text(item, reply, text_metric(scoring), scoring.tolerance)
        case Kind.LABEL:
            return score_label(item, reply)
        case Kind.TRANSCRIPT:
            return score_transcript(item, reply, scoring.normaliser or _DEFAULT_NORMALISER)
        case Kind.VERIFY:
            return score_instructions(item, reply)
        case Kind.SPEECH:
            return score_speech(item, reply, spoken or Spoken(None))


def without_reply(item: Item, outcome: Outcome, reason: str, kind: Kind, scoring: Scoring) -> Score:
    """The score of an item to which nothing usable came: nothing right, every word lost, no instruction followed."""
    match item.kind or kind:
        case Kind.TRANSCRIPT:
            lost = score_transcript(item, Reply(""), scoring.normaliser or _DEFAULT_NORMALISER)
        case Kind.SPEECH:
            lost = nothing_heard(item)
        case Kind.VERIFY:
            lost = score_instructions(item, Reply(""))
        case _:
            return Score(outcome, reason=reason)
    return replace(lost, outcome=outcome, reason=reason)


def text_metric(scoring: Scoring) -> str:
    """How texts are compared; a suite that reports accuracy compares exactly."""
    return scoring.metric if scoring.metric in TEXT_METRICS else "exact"


def scorable(items: tuple[Item, ...], suite: Suite) -> tuple[Item, ...]:
    """Items without those whose reference normalises to nothing.

    Raises:
        DataError: an item or the suite cannot be scored.
    """
    kept = []
    for item in items:
        kind = item.kind or suite.kind
        if kind is Kind.VERIFY:
            instructions_of(item)
        if kind is not Kind.TRANSCRIPT or has_reference(item, suite.score.normaliser or _DEFAULT_NORMALISER):
            kept.append(item)
    if not kept:
        raise DataError(f"suite {suite.name}: no item has a reference to compare with")
    return tuple(kept)
