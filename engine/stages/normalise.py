"""A segment as it should be read aloud: no markup, and numbers in words."""

from __future__ import annotations

import re
from collections.abc import Callable

from engine.stages.cut import has_chinese
from engine.stages.english_numbers import expand_numbers

Normaliser = Callable[[str], str]

_REMOVED = re.compile(
    r"""\$[^$]*\$                   # formulas
    | https?://[^\s\u4e00-\u9fff]+
    | `[^`]*`                       # code
    | !\[[^\]]*\]\([^)]*\)          # images
    | (?<=\d),(?=\d{3}(?!\d))       # thousands
    """,
    re.VERBOSE,
)
# A space beside nothing but Chinese characters and punctuation says nothing.
_LETTER = r"[^\W\u4e00-\u9fff]"
_SPACE = re.compile(rf"(?<!\s)(?<!{_LETTER})\s+(?!\s)(?!{_LETTER})")
_MARKS = re.compile("\\*{2,3}|###|---|[\U0001f600-\U0001f64f■□▲△▼▽◆◇○●★☆\t\n]")


def remove_markup(text: str) -> str:
    """Without formulas, addresses, code, images, emphasis, emoji and ornaments."""
    return _MARKS.sub("", _SPACE.sub("", _REMOVED.sub("", text)))


def identity(text: str) -> str:
    """No text normalisation."""
    return text


def make_normaliser(grammar: Normaliser) -> Normaliser:
    """English numbers, then markup, then `grammar` on what is Chinese."""

    def clean(text: str) -> str:
        text = remove_markup(text)
        return grammar(text) if has_chinese(text) else text

    return released_order(clean)


def released_order(text_normalisation: Normaliser) -> Normaliser:
    """The released sequence: numbers of an English segment, `text_normalisation`, and no comma in front."""

    def normalise(segment: str) -> str:
        text = segment if has_chinese(segment) else expand_numbers(segment)
        return text_normalisation(text).removeprefix("，")

    return normalise
