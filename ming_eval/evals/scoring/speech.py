"""Spoken output: is the audio whole and of a plausible length, and what a recogniser heard in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ming_eval.evals.item import Item, Outcome, Reason, Reply, Score
from ming_eval.evals.scoring.normalise_chinese import is_han
from ming_eval.evals.scoring.transcript import rated

_SECONDS_PER_WORD = 0.40  # 150 words a minute
_SECONDS_PER_HAN = 0.22  # 270 characters a minute
_SHORTEST, _LONGEST = 0.3, 3.0  # of the expected duration
_KEPT = re.compile(r"[^\w']|_")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What is known of a reply's audio; `audio_s` None means that it cannot be decoded."""

    audio_s: float | None
    sample_rate_hz: int | None = None
    announced_rate_hz: int | None = None


def expected_s(text: str) -> float:
    """How long `text` takes to speak, in seconds: words and Chinese characters at an ordinary pace."""
    num_han = sum(map(is_han, text))
    num_words = len("".join(" " if is_han(char) else char for char in text).split())
    return num_words * _SECONDS_PER_WORD + num_han * _SECONDS_PER_HAN


def audio_fault(spoken: Spoken, text: str) -> str | None:
    """What is wrong with the audio of `text`, None when nothing is.

    A header that announces another rate than the samples have makes speech slow or fast, which shows in its duration.
    """
    if spoken.audio_s is None:
        return "the audio cannot be decoded"
    if spoken.announced_rate_hz not in (None, spoken.sample_rate_hz):
        return f"the audio has {spoken.sample_rate_hz} Hz, {spoken.announced_rate_hz} Hz were announced"
    expected = expected_s(text)
    if not _SHORTEST * expected <= spoken.audio_s <= _LONGEST * expected:
        return f"the audio lasts {spoken.audio_s:.2f} s, about {expected:.2f} s were expected"
    return None


def score_speech(item: Item, reply: Reply, spoken: Spoken) -> Score:
    """Errors of what the recogniser heard against the text to be spoken; faulty audio is an error.

    `reply.transcript` is what was heard; a score without one would be a guess.
    """
    target = item.gold_texts[0]
    if audio_fault(spoken, target) is not None:
        return replace(nothing_heard(item), outcome=Outcome.ERROR, reason=Reason.AUDIO)
    assert reply.transcript is not None, f"item {item.id}: no transcript of the speech"
    return rated(speech_tokens(target), speech_tokens(reply.transcript), "transcript", reply.transcript, reply)


def nothing_heard(item: Item) -> Score:
    """The score of an item whose speech has no words."""
    return rated(speech_tokens(item.gold_texts[0]), [], "transcript", "", Reply(""))


def speech_tokens(text: str) -> list[str]:
    """Lower case without punctuation but the apostrophe; Chinese by character, else by word (Seed-TTS-eval)."""
    spaced = "".join(f" {char} " if is_han(char) else char for char in _KEPT.sub(" ", text.casefold()))
    return spaced.split()
