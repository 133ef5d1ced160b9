"""The talker's text front end: text as it is written to segments as they are spoken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from engine.stages.chinese_numbers import read_chinese_numbers
from engine.stages.normalise import Normaliser, make_normaliser
from engine.stages.segmentation import MAX_CHARS, ReleasedSegmenter, Segmenter, SentenceSegmenter

# Sentences sound better; the released rule, at commas and after a few characters, is heard a little sooner.
SegmentationMode = Literal["sentence", "released"]


@dataclass
class TextFrontEnd:
    """Segments, normalised; what has nothing to say (punctuation, emoji) is left out."""

    segmenter: Segmenter
    normalise: Normaliser

    def push(self, text: str) -> list[str]:
        """More text; the segments that can be spoken now."""
        return list(self._prepare(self.segmenter.push(text)))

    def finish(self) -> list[str]:
        """No more text; the segments that are left."""
        return list(self._prepare(self.segmenter.finish()))

    def _prepare(self, segments: Iterable[str]) -> Iterator[str]:
        for segment in segments:
            yield from filter(_speakable, _bounded(self.normalise(segment)))


def make_front_end(mode: SegmentationMode = "sentence", grammar: Normaliser = read_chinese_numbers) -> TextFrontEnd:
    """A front end for one text; `grammar` reads the numbers of Chinese segments."""
    segmenter: Segmenter = SentenceSegmenter() if mode == "sentence" else ReleasedSegmenter()
    return TextFrontEnd(segmenter, make_normaliser(grammar))


def _speakable(text: str) -> bool:
    return any(char.isalnum() for char in text)


def _bounded(text: str) -> Iterator[str]:
    """Pieces of at most `MAX_CHARS`, at spaces where there are any: a prompt must leave room for its speech."""
    while len(text) > MAX_CHARS:
        space = text.rfind(" ", 1, MAX_CHARS)
        end = space if space > 0 else MAX_CHARS
        yield text[:end]
        text = text[end:].lstrip()
    yield text
