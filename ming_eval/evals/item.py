"""What is asked, what came back, and what it is worth. Frozen values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class Kind(StrEnum):
    """How a suite's answers are read; one scorer each."""

    MCQ = "mcq"
    TEXT = "text"
    NUMBER = "number"
    TRANSCRIPT = "transcript"
    LABEL = "label"
    SPEECH = "speech"
    VERIFY = "verify"


class Outcome(StrEnum):
    """How a planned item ended; each ends in exactly one."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    ERROR = "error"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Why an item has no answer: the first five for `unparsed`, the others for `error` and `skipped`.

    An `error` that came from a request has the name of the request's failure as its reason instead.
    """

    EMPTY = "empty"
    TRUNCATED = "truncated"
    REFUSAL = "refusal"
    AMBIGUOUS = "ambiguous"
    NO_ANSWER = "no_answer"
    AUDIO = "audio"
    NOT_SENT = "not_sent"
    MEDIA_MISSING = "media_missing"


@dataclass(frozen=True, slots=True)
class MediaRef:
    """A file that goes with a question. `data` is there instead of a file where the data set holds the bytes.

    `text` is what is said in a sound, where that goes along with it: the words of a voice to speak with.
    """

    type: Literal["image", "audio", "video"]
    path: str
    data: bytes | None = field(default=None, repr=False)
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction that a reply can be checked for (kind `verify`), with its arguments."""

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Gold = int | str | tuple[str, ...] | tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One question in the normalised form.

    `answer` is the index of a choice (mcq), the number as written (number), one or several accepted texts (text,
    transcript, label, speech) or instructions (verify). `choices` carry no letters. `group` maps reporting dimensions
    to values; items with one `cluster` share a source and are not independent. `kind` overrides the suite's.
    """

    id: str
    question: str
    answer: Gold
    choices: tuple[str, ...] = ()
    media: tuple[MediaRef, ...] = ()
    group: Mapping[str, str] = field(default_factory=dict)
    cluster: str | None = None
    subtitles: str | None = None
    kind: Kind | None = None

    @property
    def gold_texts(self) -> tuple[str, ...]:
        """The accepted answers of an item whose answer is text."""
        answers = self.answer if isinstance(self.answer, tuple) else (self.answer,)
        assert all(isinstance(answer, str) for answer in answers), f"item {self.id}: the answer is no text"
        return tuple(str(answer) for answer in answers)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said to one item, as scorers see it; `transcript` is what a recogniser heard in spoken output."""

    text: str
    finish_reason: str | None = None
    transcript: str | None = None

    @property
    def is_truncated(self) -> bool:
        """True when the token limit ended the reply."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Score:
    """What a reply is worth.

    `rule` names the extraction rule that decided, `extracted` is what it found. `value` is 1 for a right answer, 0 for
    a wrong or missing one, in between where the metric grades, and an error rate for transcripts. `tallies` are
    (numerator, denominator) pairs that a suite sums over its items before it divides: words wrong of words spoken.
    """

    outcome: Outcome
    value: float = 0.0
    rule: str | None = None
    reason: str | None = None
    extracted: str | None = None
    tallies: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def judged(is_right: bool, rule: str, extracted: str) -> Score:
    """The score of an answer that could be read."""
    return Score(Outcome.CORRECT if is_right else Outcome.WRONG, float(is_right), rule, extracted=extracted)


def unparsed(reason: Reason) -> Score:
    """The score of a reply without a readable answer."""
    return Score(Outcome.UNPARSED, reason=reason)
