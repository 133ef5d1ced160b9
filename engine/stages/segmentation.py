"""Cutting text into segments that are spoken one after another, while the text is still being written.

What comes out depends on the text alone, not on the pieces in which it arrives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from engine.stages.cut import cut, has_chinese, semantic_length

FIRST_LENGTH = 12  # tokens or characters that make the first segment worth starting
LATER_LENGTH = 8
LATER_CHARS = 40  # the same for scripts whose words are not counted
MAX_CHARS = 400  # of a segment, in languages whose words are not counted and in text without punctuation

_TOKENS = re.compile(
    r"""(?:[A-Za-z]\.)+          # initials
    | [A-Za-z]+(?:['-][A-Za-z]+)*
    | \d+(?:\.\d+)?
    | [\u4e00-\u9fff]
    | \s+
    | .""",
    re.VERBOSE,
)
_SPEAKABLE = re.compile("[a-zA-Z\u4e00-\u9fff1-9]")
_FLUSHING = tuple("！？。，!?")
_DIGITS = tuple("0123456789")


class Segmenter(Protocol):
    """Text in pieces of any size to segments."""

    def push(self, text: str) -> list[str]:
        """More text; the segments that are complete with it."""

    def finish(self) -> list[str]:
        """No more text; what is left."""


def tokens(text: str) -> list[str]:
    """Words, numbers, single Chinese characters, runs of white space, other single characters."""
    return _TOKENS.findall(text)


@dataclass
class ReleasedSegmenter:
    """The released rule: at punctuation, as soon as there are enough tokens.

    The released program hands it text character by character, which `push` does; `push_tokens` takes words.
    """

    buffer: list[str] = field(default_factory=list)
    num_segments: int = 0

    def push(self, text: str) -> list[str]:
        """More text, character by character."""
        return self.push_tokens(text)

    def push_tokens(self, pieces: Iterable[str]) -> list[str]:
        """More tokens; the segments that are complete with them."""
        return [segment for piece in pieces for segment in self._push(piece)]

    def finish(self) -> list[str]:
        """What is left, if there is anything in it that can be said."""
        return self._flush() if _SPEAKABLE.search("".join(self.buffer)) else []

    def _push(self, token: str) -> list[str]:
        enough = self._enough()
        if token.endswith("\n"):
            self._end_line(token)
            return self._flush() if self._enough() else []
        ends_number = bool(self.buffer) and self.buffer[-1].endswith(_DIGITS)
        self.buffer.append(token)
        flushing = token.endswith(_FLUSHING) or (token.endswith(".") and not ends_number)
        return self._flush() if enough and flushing else []

    def _end_line(self, token: str) -> None:
        """A line that ends without punctuation ends with a Chinese comma, if it is Chinese."""
        if not self.buffer:
            return
        if not has_chinese("".join(self.buffer)):
            self.buffer.append(token[:-1])  # even if it is empty: it counts
        elif has_chinese(self.buffer[-1][-1:]):
            self.buffer.append("，")

    def _enough(self) -> bool:
        return len(self.buffer) >= (LATER_LENGTH if self.num_segments else FIRST_LENGTH)

    def _flush(self) -> list[str]:
        # The released loop fails when there is nothing to say in the buffer; here it is dropped.
        segments = cut("".join(self.buffer))
        self.buffer.clear()
        self.num_segments += len(segments)
        return segments


_SENTENCE_ENDS = "。！？!?\n"
_CLAUSE_ENDS = "，,；;：:、"
_CLOSING = "”’」』）】》\"')]"

# Initials and titles, behind which a sentence goes on.
_ABBREVIATION = re.compile(r"\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc)\.$")


@dataclass
class SentenceSegmenter:
    """Whole sentences, short ones joined, long ones cut; the first segment may end at a clause, to start early.

    Sentences give better prosody and fewer prompts than the released rule. A mark ends a segment once the character
    behind it is known, so that closing quotes stay with their sentence and a decimal point ends nothing.
    """

    buffer: str = ""
    num_segments: int = 0

    def push(self, text: str) -> list[str]:
        """More text; the segments that are complete with it."""
        segments = []
        for char in text:
            if self._ends_before(char):
                segments += self._flush()
            self.buffer += char
        return segments

    def finish(self) -> list[str]:
        """What is left."""
        return self._flush()

    def _ends_before(self, char: str) -> bool:
        """Whether the buffer is a segment, given the character that follows it."""
        marked = self.buffer.rstrip(_CLOSING)
        if len(self.buffer) >= MAX_CHARS:
            return True
        if char in _CLOSING or char in _SENTENCE_ENDS or not marked:
            return False
        if not self._enough():
            return False
        mark = marked[-1]
        if mark == ".":
            return char.isspace() and not _ABBREVIATION.search(marked)
        if mark.isascii() and char.isascii() and not char.isspace() and mark != "\n":
            return False  # inside an address, or a time of day
        return mark in _SENTENCE_ENDS or (self.num_segments == 0 and mark in _CLAUSE_ENDS and not char.isdigit())

    def _enough(self) -> bool:
        """Speech has a least duration, so what is said for its own sake must be worth it."""
        text = self.buffer.strip()
        if self.num_segments == 0:
            return len(text) >= FIRST_LENGTH
        return semantic_length(text) >= LATER_LENGTH or len(text) >= LATER_CHARS

    def _flush(self) -> list[str]:
        segments = [fragment.strip() for fragment in cut(self.buffer)]
        self.buffer = ""
        self.num_segments += len(segments)
        return segments
