"""Numbers in English words -> figures: `twenty one` 21, `nineteen oh one` 1901, `five dollars` $5, `third` 3rd.

What counts as a number follows the normaliser that came with Whisper (Radford et al., 2022, appendix C).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_UNITS = {
    name: value
    for value, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_TENS = {
    name: 10 * value
    for value, name in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
_SMALL = _UNITS | _TENS
_LARGE = {name: 1000**power for power, name in enumerate("thousand million billion trillion".split(), start=1)}
_IRREGULAR_ORDINALS = {
    "first": "one",
    "second": "two",
    "third": "three",
    "fifth": "five",
    "eighth": "eight",
    "ninth": "nine",
    "twelfth": "twelve",
}
_SIGN_BEFORE = {"dollar": "$", "euro": "€", "pound": "£"}
_POLARITY = {"minus": "-", "negative": "-", "plus": "+"}
_TIMES = {"double": 2, "triple": 3}
_MOST_DIGITS = 100  # of a figure that is computed with; a recogniser in a loop writes thousands
_FIGURE = re.compile(r"[$€£]?\d+(?:\.\d+)?")
_AMOUNT = re.compile(r"([$€£]?)(\d+(?:\.\d+)?)")


def figures(words: Sequence[str]) -> list[str]:
    """`words` with every run of number words written in figures; other words stay as they are."""
    words = _digits_one_by_one(words)
    result: list[str] = []
    at = 0
    while at < len(words):
        sign = _POLARITY.get(words[at], "")
        text, end = _number(words, at + bool(sign))
        if text is None:
            result.append(words[at])
            at += 1
        else:
            result.append(sign + text)
            at = end
    return result


def _number(words: Sequence[str], at: int) -> tuple[str | None, int]:
    """The number that starts at a word, with its unit, and where it ends; None where there is none."""
    text, end = _scaled(words, at)
    if text is None:
        number = _Number()
        end = number.read(words, at)
        text = number.text
    if end == at:
        return None, at
    if tuple(words[end : end + 3]) == ("and", "a", "half") and text.isdecimal():
        text, end = f"{text}.5", end + 3
    return _with_unit(text, words, end)


def _scaled(words: Sequence[str], at: int) -> tuple[str | None, int]:
    """An amount in figures with a large number word behind it: `$3 million`, `3.5 thousand`."""
    match = _AMOUNT.fullmatch(words[at]) if at + 1 < len(words) and words[at + 1] in _LARGE else None
    if match is None or words[at].isdecimal() or len(words[at]) > _MOST_DIGITS:
        return None, at
    value = Fraction(match[2]) * _LARGE[words[at + 1]]
    return f"{match[1]}{value.numerator if value.denominator == 1 else float(value)}", at + 2


def _digits_one_by_one(words: Sequence[str]) -> list[str]:
    """`double seven` as `seven seven`, and an `oh` before or between digits as `zero`."""
    said: list[str] = []
    for index, word in enumerate(words):
        times = _TIMES.get(words[index - 1], 1) if index else 1
        following = words[index + 1] if index + 1 < len(words) else ""
        is_zero = word == "oh" and (times > 1 or following in _UNITS or _is_oh_before_digit(words[index + 1 :]))
        digit = "zero" if is_zero else word
        if times > 1 and digit in _UNITS:
            said[-1:] = [digit] * times
        else:
            said.append(digit)
    return said


def _is_oh_before_digit(words: Sequence[str]) -> bool:
    return len(words) > 1 and words[0] == "oh" and words[1] in _UNITS


@dataclass(slots=True)
class _Number:
    """A number while it is read. `done` are figures that nothing can be added to any more: the 19 of `nineteen ninety`.

    `room` is the size below which the next word still adds to the number: 10 after `twenty`, 100 after `hundred`.
    """

    done: str = ""
    total: int = 0
    group: int | None = None
    room: int = 0
    least_large: int = 10**15
    suffix: str = ""
    decimals: str = ""

    @property
    def text(self) -> str:
        return self.done + self._pending() + (f".{self.decimals}" if self.decimals else "") + self.suffix

    def read(self, words: Sequence[str], start: int) -> int:
        """Take in words from `start` on; where the number ends, `start` if there is none."""
        at = start
        while at < len(words) and not self.suffix:
            word = words[at]
            if (word == "and" and self._joins(words, at)) or self._take(word):
                at += 1
            elif word == "point" and at > start and at + 1 < len(words) and words[at + 1] in _UNITS:
                return self._read_decimals(words, at + 1)
            else:
                break
        return at

    def _take(self, word: str) -> bool:
        """Add one word; False when it is no part of a number."""
        if word in _SMALL:
            self._add(_SMALL[word])
        elif word == "hundred":
            self._multiply_group()
        elif word in _LARGE:
            self._multiply(_LARGE[word])
        elif word.isdecimal() and len(word) <= _MOST_DIGITS and self.group is None and not self.done:
            self.group, self.room = int(word), 0
            if word.startswith("0"):
                self.done, self.group = word, None
        elif (cardinal := _of_plural(word)) is not None:
            self._take(cardinal)
            self.suffix = "s"
        else:
            return self._take_ordinal(word)
        return True

    def _take_ordinal(self, word: str) -> bool:
        cardinal = _of_ordinal(word)
        if cardinal is None:
            return False
        self._take(cardinal)
        self.suffix = _ordinal_ending(int(self._pending() or 0))
        return True

    def _add(self, value: int) -> None:
        fits = self.room > 10 if value >= 10 else 0 < value < self.room
        if not self._is_empty() and not fits:
            self._finish()
        self.group = (self.group or 0) + value
        self.room = 10 if value >= 20 else 0

    def _multiply_group(self) -> None:
        if self.group is not None and not 0 < self.group < 100:
            self._finish()
        self.group = (self.group or 1) * 100
        self.room = 100

    def _multiply(self, size: int) -> None:
        if size >= self.least_large or self.group == 0:
            self._finish()
        self.total += (1 if self.group is None else self.group) * size
        self.group, self.room, self.least_large = None, 1000, size

    def _finish(self) -> None:
        self.done += self._pending()
        self.total, self.group, self.room, self.least_large = 0, None, 0, 10**15

    def _pending(self) -> str:
        if self.group is None and self.total == 0:
            return ""
        return str(self.total + (self.group or 0))

    def _is_empty(self) -> bool:
        return self.group is None and self.total == 0

    def _joins(self, words: Sequence[str], at: int) -> bool:
        """True for the `and` of `two hundred and five`."""
        return (
            self.room >= 100
            and at + 1 < len(words)
            and (words[at + 1] in _SMALL or (_of_ordinal(words[at + 1]) or "") in _SMALL)
        )

    def _read_decimals(self, words: Sequence[str], at: int) -> int:
        while at < len(words) and words[at] in _UNITS:
            self.decimals += str(_UNITS[words[at]])
            at += 1
        return at


def _of_plural(word: str) -> str | None:
    """The number word in the plural: `sixties` -> `sixty`, `hundreds` -> `hundred`."""
    stem = word.removesuffix("s")
    for name in (stem, f"{stem.removesuffix('ie')}y", stem.removesuffix("e")):
        if stem != word and (name in _SMALL or name == "hundred" or name in _LARGE):
            return name
    return None


def _of_ordinal(word: str) -> str | None:
    """The number word that an ordinal comes from; None when it is no ordinal."""
    if word in _IRREGULAR_ORDINALS:
        return _IRREGULAR_ORDINALS[word]
    name = word.removesuffix("th")
    if name == word:
        return None
    name = name.removesuffix("ie") + "y" if name.endswith("ie") else name
    return name if name in _SMALL or name == "hundred" or name in _LARGE else None


def _ordinal_ending(value: int) -> str:
    if value % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


def _with_unit(number: str, words: Sequence[str], at: int) -> tuple[str, int]:
    """The figure with the sign of a unit that follows it, and where the words go on."""
    following = words[at] if at < len(words) else ""
    if not _FIGURE.fullmatch(number) or not following:
        return number, at
    if following == "percent":
        return f"{number}%", at + 1
    if following == "per" and words[at + 1 : at + 2] == ["cent"]:
        return f"{number}%", at + 2
    if following in ("cent", "cents"):
        return f"¢{number}", at + 1
    sign = _SIGN_BEFORE.get(following.removesuffix("s"))
    return (f"{sign}{number}", at + 1) if sign else (number, at)
