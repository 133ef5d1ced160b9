"""Cutting a text into fragments of bounded length, at sentences, then clauses, then words: the released rules."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

MAX_LENGTH = 50
_SHORT = 5

_CJK = "\u4e00-\u9fa5"
_DOT = "\ue000"  # stands for a full stop that ends no sentence; it counts, as the released placeholder does
_COUNTED = re.compile(f"[{_CJK}{_DOT}]|[A-Za-z]+")
_UNITS = re.compile(f"[{_CJK}]|[A-Za-z]+|[^{_CJK}A-Za-z]+")
_SILENT = string.punctuation + string.whitespace

_DECIMAL_POINT = re.compile(r"(\d)\.(\d)")  # of "1.2.3" only the first point is one
_INITIALS = re.compile(r"(?<=[A-Z])\.(?=[A-Z])")

_FULL_WIDTH = str.maketrans({".": "。", "!": "！", "?": "？", ",": "，"})
_SENTENCE = re.compile("[^。！？]*[。！？]|[^。！？]+$")
_CLAUSE = re.compile("[^，;；]*[，;；]|[^，;；]+$")
_ENDS = ("。", "！", "？")


def has_chinese(text: str) -> bool:
    """Whether any Chinese character is in it."""
    return re.search("[\u4e00-\u9fff]", text) is not None


def semantic_length(text: str) -> int:
    """Chinese characters and runs of Latin letters; digits and punctuation do not count."""
    return len(_COUNTED.findall(text))


def cut(text: str, limit: int = MAX_LENGTH) -> list[str]:
    """Fragments of at most `limit` (see `semantic_length`), as the released front end makes them.

    A text that fits is returned as it is. Text without anything to say gives none. In the others sentence and clause
    marks become full-width ones.
    """
    if not _says_something(text):
        return []
    text = _INITIALS.sub(_DOT, _DECIMAL_POINT.sub(rf"\1{_DOT}\2", text))
    text = text.replace("\n", " ").replace("。，", "。")
    fragments = [text] if semantic_length(text) <= limit else _join(_clauses(text.translate(_FULL_WIDTH), limit), limit)
    return [fragment.replace(_DOT, ".") for fragment in fragments]


def _says_something(text: str) -> bool:
    """Whether it is more than ASCII punctuation and white space."""
    return text.strip(_SILENT) != ""


def _clauses(text: str, limit: int) -> Iterator[str]:
    for sentence in _SENTENCE.findall(text):
        ended = sentence.strip() if sentence.endswith(_ENDS) else sentence.strip() + "。"
        for clause in _merge_short(_parts(ended), limit):
            yield from _split(clause, limit)


def _parts(sentence: str) -> list[str]:
    """A sentence at its commas; what is punctuation alone goes to the clause before it."""
    parts: list[str] = []
    for part in map(str.strip, _CLAUSE.findall(sentence)):
        if _says_something(part):
            parts.append(part)
        elif parts:
            parts[-1] += part
    return parts


def _merge_short(clauses: list[str], limit: int) -> Iterator[str]:
    """A short clause goes with the next one, if both fit together."""
    rest = iter(range(len(clauses)))
    for i in rest:
        pair = "".join(clauses[i : i + 2])
        if semantic_length(clauses[i]) < _SHORT and i + 1 < len(clauses) and semantic_length(pair) <= limit:
            next(rest)
            yield pair
        else:
            yield clauses[i]


def _split(clause: str, limit: int) -> Iterator[str]:
    """Pieces of a clause that is too long, each as long as it may be."""
    piece = ""
    for unit in _UNITS.findall(clause):
        if piece and semantic_length(piece) + semantic_length(unit) > limit:
            yield piece
            piece = ""
        piece += unit
    yield piece


def _join(clauses: Iterator[str], limit: int) -> list[str]:
    fragments: list[str] = []
    for clause in clauses:
        text = clause.lstrip("，,:;" + string.whitespace)
        if not _says_something(text):
            continue
        if fragments and _goes_with(fragments[-1], text, limit):
            is_apart = fragments[-1].endswith(" ") or not _starts_latin(text)
            fragments[-1] += text if is_apart else " " + text
        else:
            fragments.append(text)
    return fragments


def _goes_with(fragment: str, clause: str, limit: int) -> bool:
    if semantic_length(clause) < _SHORT and fragment.endswith(_ENDS):
        return False
    return semantic_length(fragment) + semantic_length(clause) <= limit


def _starts_latin(text: str) -> bool:
    return text[:1].isascii() and text[:1].isalnum()
