"""Transcripts: substitutions, deletions and insertions over the length of the reference, as a ratio of sums."""

from __future__ import annotations

import re
from collections.abc import Callable

from ming_eval.errors import DataError
from ming_eval.evals.item import Item, Outcome, Reply, Score
from ming_eval.evals.optional import require
from ming_eval.evals.scoring.normalise_chinese import chinese_tokens
from ming_eval.evals.scoring.normalise_english import english_tokens
from ming_eval.evals.scoring.normalise_mixed import mixed_tokens, plain_tokens
from ming_eval.evals.scoring.prepare import without_reasoning
from ming_eval.evals.scoring.refusal import reason_of

Tokens = Callable[[str], list[str]]

TOKENISERS: dict[str, Tokens] = {
    "english": english_tokens,
    "chinese": chinese_tokens,
    "mixed": mixed_tokens,
    "plain": plain_tokens,
}

ERRORS = "errors"  # the tally of errors over reference length
HIGH = "high"  # the tally of utterances with more than half as many errors as words
_HIGH_RATE = 0.5
_MAX_KEPT_CHARS = 2000

_ANNOUNCEMENT = re.compile(
    r"\s*[^:：\n]{0,100}?(?:transcri|\bthe\s+(?:audio|speech|recording|speaker|clip)\b"
    r"|转写|轉寫|转录|轉錄|(?:音频|录音|语音)(?:的|中)?(?:内容|文字))[^:：\n]{0,60}[:：]\s*",
    re.IGNORECASE,
)


def score_transcript(item: Item, reply: Reply, normaliser: str) -> Score:
    """Errors of the reply against the item's text; a missing transcript counts as all deletions."""
    text = without_reasoning(reply.text)
    rule, heard = without_announcement(text or "")
    tokens = TOKENISERS[normaliser]
    return rated(tokens(item.gold_texts[0]), tokens(heard), rule, heard, reply)


def rated(reference: list[str], heard: list[str], rule: str, said: str, reply: Reply) -> Score:
    """The score of heard words against the reference's."""
    errors = num_errors(reference, heard)
    rate = errors / len(reference)
    tallies = {ERRORS: (float(errors), float(len(reference))), HIGH: (float(rate > _HIGH_RATE), 1.0)}
    if not heard:
        return Score(Outcome.UNPARSED, rate, reason=reason_of(said.strip(), reply), tallies=tallies)
    outcome = Outcome.CORRECT if errors == 0 else Outcome.WRONG
    return Score(outcome, rate, rule, extracted=said[:_MAX_KEPT_CHARS], tallies=tallies)


def num_errors(reference: list[str], heard: list[str]) -> int:
    """Substitutions, deletions and insertions of the best alignment."""
    if not reference or not heard:
        return len(reference) + len(heard)
    jiwer = require("jiwer", purpose="scoring transcripts")
    output = jiwer.process_words(" ".join(reference), " ".join(heard))  # it splits at blanks, and no token holds one
    return int(output.substitutions + output.deletions + output.insertions)


def without_announcement(text: str) -> tuple[str, str]:
    """The transcript without a sentence in front that announces it and ends with a colon, and the rule's name."""
    match = _ANNOUNCEMENT.match(text)
    if match is None or match.end() == len(text):
        return "whole", text
    return "announced", text[match.end() :]


def has_reference(item: Item, normaliser: str) -> bool:
    """True when the item's reference has words after normalisation.

    Raises:
        DataError: there is no normaliser of that name.
    """
    if normaliser not in TOKENISERS:
        raise DataError(f"no normaliser {normaliser!r}: choose one of {', '.join(TOKENISERS)}")
    return bool(TOKENISERS[normaliser](item.gold_texts[0]))
