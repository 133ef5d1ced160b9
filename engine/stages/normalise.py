"""A segment as it should be read aloud: no markup, and numbers in words."""

from __future__ import annotations

import re
from collections.abc import Callable

from engine.stages.cut import has_chinese
from engine.stages.english_numbers import expand_numbers
from engine.stages.english_readings import prepare_readings

Normaliser = Callable[[str], str]

_FORMULA = re.compile(r"\$\$.*?\$\$|\$.*?\$", re.DOTALL)
_SPACE = re.compile(r"(?<=[^a-zA-Z.]) +(?=[^a-zA-Z.])")
_REMOVED = (
    re.compile(r"(?:https?://|www\.)[a-zA-Z0-9./?=&_:-]+"),
    re.compile(r"`.*?`", re.DOTALL),  # code
    re.compile(r"!\[(?:[^\]\n]|\](?!\())*\]\([^)\n]*\)"),  # images; the released `.*?` take cubic time
    re.compile(r"(?<=\d),(?=\d{3})"),  # thousands
)
_SPACES = re.compile(r"(?<=[a-zA-Z]) +(?=[a-zA-Z])")
_MARKS = re.compile(r"\*{2,3}|###|---")
_ORNAMENTS = re.compile("[\U0001f600-\U0001f64f▼●★☆■□▲△◆◇○◎√×✔✖\ufe0e\t\n\r\f]")

# What the released rules spoil: "between $5 and $6" is no formula, and joined numbers are other numbers.
_CERTAIN_FORMULA = re.compile(r"\$\$.*?\$\$|\$(?!\s?\d).*?\$", re.DOTALL)
# The digits of an address are none to read, and what ends the sentence is not part of it.
_ADDRESS = re.compile(r"(?:https?://|www\.)[^\s\u3000-\uffef]*[^\s\u3000-\uffef.,;:!?)\"']")
_LETTER = r"[^\W\u4e00-\u9fff]"
_SILENT_SPACE = re.compile(rf"(?<!{_LETTER}) +(?! )(?!{_LETTER})")


def remove_markup(text: str) -> str:
    """Without formulas, addresses, code, images, emphasis, emoji and ornaments: the released rules."""
    return _remove(text, _FORMULA, _SPACE)


def remove_markup_with_care(text: str) -> str:
    """The same, but for what would change what is said."""
    return _remove(_ADDRESS.sub("", text), _CERTAIN_FORMULA, _SILENT_SPACE)


def _remove(text: str, formula: re.Pattern[str], space: re.Pattern[str]) -> str:
    for pattern in (formula, *_REMOVED, space):
        text = pattern.sub("", text)
    return _ORNAMENTS.sub("", _MARKS.sub("", _SPACES.sub(" ", text)))


def identity(text: str) -> str:
    """No text normalisation."""
    return text


def make_normaliser(grammar: Normaliser) -> Normaliser:
    """English numbers, then markup, then `grammar` on what is Chinese."""

    def clean(text: str) -> str:
        text = remove_markup_with_care(text)
        return grammar(text) if has_chinese(text) else text

    def normalise(segment: str) -> str:
        return released(segment if has_chinese(segment) else prepare_readings(_ADDRESS.sub("", segment))).strip()

    released = released_order(clean)
    return normalise


def released_order(text_normalisation: Normaliser) -> Normaliser:
    """The released sequence: numbers of an English segment, `text_normalisation`, and no comma in front."""

    def normalise(segment: str) -> str:
        text = segment if has_chinese(segment) else expand_numbers(segment)
        return text_normalisation(text).removeprefix("，")

    return normalise
