"""Cutting a text into fragments of bounded length, at sentences, then clauses, then words."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LENGTH = 50
_SHORT = 5

_CJK = "\u4e00-\u9fa5"
_COUNTED = re.compile(f"[{_CJK}]|[A-Za-z]+")
_UNITS = re.compile(f"[{_CJK}]|[A-Za-z]+|[^{_CJK}A-Za-z]+")
_CONTENT = re.compile(r"[^\s!-/:-@\[-`{-~]")  # anything but ASCII punctuation and white space

_DOT = "\ue000"  # stands for a full stop that ends no sentence
_DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_INITIALS = re.compile(r"(?<=[A-Z])\.(?=[A-Z])")

_FULL_WIDTH = str.maketrans({".": "。", "!": "！", "?": "？", ",": "，"})
_SENTENCE = re.compile("[^。！？]*[。！？]|[^。！？]+$")
_CLAUSE = re.compile("[^，,;；]*[，,;；]|[^，,;；]+$")
_ENDS = ("。", "！", "？")


def has_chinese(text: str) -> bool:
    """Whether any Chinese character is in it."""
    return re.search(f"[{_CJK}]", text) is not None


def semantic_length(text: str) -> int:
    """Chinese characters and runs of Latin letters; digits and punctuation do not count."""
    return len(_COUNTED.findall(text))


def cut(text: str, limit: int = MAX_LENGTH) -> list[str]:
    """Fragments of at most `limit` (see `semantic_length`), as the released front end makes them.

    A shorter text is returned as it is. Text without anything to say gives none. In the others sentence and clause
    marks become full-width ones.
    """
    if not _CONTENT.search(text):
        return []
    text = _INITIALS.sub(_DOT, _DECIMAL_POINT.sub(_DOT, text))
    text = text.replace("\n", " ").replace("。，", "。")
    if semantic_length(text) < limit:
        return [text.strip().replace(_DOT, ".")]
    clauses = _clauses(text.translate(_FULL_WIDTH), limit)
    fragments = (fragment.lstrip("，,:; \t").replace(_DOT, ".") for fragment in _join(clauses, limit))
    return [fragment for fragment in fragments if fragment]


def _clauses(text: str, limit: int) -> Iterator[str]:
    for sentence in _SENTENCE.findall(text):
        if not sentence.strip():
            continue
        ended = sentence if sentence.endswith(_ENDS) else sentence + "。"
        clauses = [clause.strip() for clause in _CLAUSE.findall(ended)]
        for clause in _merge_short(clauses, limit):
            yield from _split(clause, limit)


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
        if semantic_length(piece + unit) > limit:
            yield piece
            piece = ""
        piece += unit
    yield piece


def _join(clauses: Iterator[str], limit: int) -> list[str]:
    fragments: list[str] = []
    for clause in clauses:
        if fragments and _goes_with(fragments[-1], clause, limit):
            fragments[-1] += (" " if _starts_latin(clause) else "") + clause
        else:
            fragments.append(clause)
    return fragments


def _goes_with(fragment: str, clause: str, limit: int) -> bool:
    if semantic_length(clause) < _SHORT and fragment.endswith(_ENDS):
        return False
    return semantic_length(fragment) + semantic_length(clause) <= limit


def _starts_latin(text: str) -> bool:
    return text[:1].isascii() and text[:1].isalnum()
