"""A segment as it should be read aloud: no markup, and numbers in words where that is known.

Chinese numbers, dates and units need the grammars of the optional package WeTextProcessing; without it they stay
digits, which the talker's language model reads acceptably.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

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


def chinese_grammar(cache_dir: Path) -> Normaliser:
    """The grammar of WeTextProcessing, or nothing where it is not installed.

    Compiled once into `cache_dir` (some seconds): the one that comes with the package would also narrow full-width
    punctuation and drop interjections, which are part of the speech.
    """
    try:
        module = importlib.import_module("tn.chinese.normalizer")
    except ImportError:
        return identity
    cache_dir.mkdir(parents=True, exist_ok=True)
    grammar = module.Normalizer(cache_dir=str(cache_dir), full_to_half=False, remove_interjections=False)
    normalise: Normaliser = grammar.normalize
    return normalise


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
