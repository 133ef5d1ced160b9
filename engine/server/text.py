"""Tokens of one choice to the text that may be shown: whole characters, and nothing from a stop string on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StopRule:
    """Stop strings, and whether the one that matched is part of the answer (a stop id likewise)."""

    strings: tuple[str, ...] = ()
    include: bool = False


class StopMatcher:
    """Finds the first stop string in text that comes in pieces.

    The match that is complete first wins, and of several that are complete at the same character the longest;
    that does not depend on where pieces begin. The longest tail that could begin a stop string is held back.
    """

    def __init__(self, rule: StopRule) -> None:
        self._rule = rule
        self._prefixes = frozenset(stop[:end] for stop in rule.strings for end in range(1, len(stop)))
        self._longest = max(map(len, rule.strings), default=0)
        self._held = ""
        self.matched: str | None = None

    def feed(self, piece: str) -> str:
        """The text that may now be shown. After a match there is no more."""
        text = self._held + piece
        found = self._find(text)
        if found is not None:
            start, self.matched = found
            self._held = ""
            return text[: start + len(self.matched) if self._rule.include else start]
        cut = self._held_from(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, once it is certain that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> tuple[int, str] | None:
        """(start, stop string) of the match that ends first."""
        hits = [(start, stop) for stop in self._rule.strings if (start := text.find(stop)) >= 0]
        return min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]), default=None)

    def _held_from(self, text: str) -> int:
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start:] in self._prefixes:
                return start
        return len(text)


class Detokenizing(Protocol):
    """What turns ids into text, one at a time."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class NoText:
    """Stands in for a detokenizer on a server without tokenizer."""

    def push(self, token_id: int) -> str:  # noqa: ARG002
        return ""

    def flush(self) -> str:
        return ""


class TextStream:
    """The visible text of one choice. Stop strings are not looked for in the first `min_tokens` tokens."""

    def __init__(self, detokenizer: Detokenizing, rule: StopRule, min_tokens: int) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(rule) if rule.strings else None
        self._num_unchecked = min_tokens

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text."""
        return self._matcher.matched if self._matcher else None

    def push(self, token_id: int) -> str:
        """The text that this token lets out, possibly none."""
        piece = self._detokenizer.push(token_id)
        if self._matcher is None:
            return piece
        if self._num_unchecked > 0:
            self._num_unchecked -= 1
            return piece
        return self._matcher.feed(piece)

    def finish(self) -> str:
        """The rest: what was held back, and a broken character as U+FFFD."""
        rest = self._detokenizer.flush()
        if self._matcher is None:
            return rest
        shown = self._matcher.feed(rest)
        return shown if self._matcher.matched is not None else shown + self._matcher.flush()
