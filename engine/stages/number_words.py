"""Numbers as English words: "1,234" is "one thousand, two hundred thirty-four"."""

from __future__ import annotations

from collections.abc import Iterator

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = ("", "", *"twenty thirty forty fifty sixty seventy eighty ninety".split())
_SCALES = (
    " thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion decillion"
).split(" ")
_MAX_DIGITS = 3 * len(_SCALES)

_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}


def cardinal(digits: str, link: str = "") -> str:
    """Words of a whole number, given as digits; `link` ("and") stands in front of what is below a hundred.

    Raises:
        ValueError: it has more digits than there are names.
    """
    value = int(digits)  # of any script
    if not value:
        return _SMALL[0]
    if value >= 10**_MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits has no name")
    *larger, last = _groups(value, link)
    if not larger:
        return last
    # What remains below a hundred follows without a pause: "two thousand fourteen".
    pause = ", " if not 0 < value % 1000 < 100 else f" {link} " if link else " "
    return ", ".join(larger) + pause + last


def decimal(number: str, link: str = "") -> str:
    """Words of a number that may have decimals, which are read digit by digit.

    Raises:
        ValueError: it is no such number, or has more digits than there are names.
    """
    whole, point, fraction = number.partition(".")
    if point and not fraction.isdecimal():
        raise ValueError(f"{number!r} has no decimals behind its point")
    said = cardinal(whole or "0", link)
    return f"{said} point {spell_out(fraction)}" if point else said


def spell_out(digits: str) -> str:
    """Digit after digit."""
    return " ".join(_SMALL[int(digit)] for digit in digits)


def ordinal(words: str) -> str:
    """Words of a number as those of a position: "twenty-one" is "twenty-first"."""
    last = words.replace("-", " ").split()[-1]
    if last in _ORDINALS:
        return words.removesuffix(last) + _ORDINALS[last]
    return f"{words[:-1]}ieth" if words.endswith("ty") else f"{words}th"


def _groups(value: int, link: str) -> Iterator[str]:
    """Thousands apart, the largest first."""
    for power in range(len(_SCALES) - 1, -1, -1):
        group = value // 1000**power % 1000
        if group:
            yield f"{_below_thousand(group, link)} {_SCALES[power]}".rstrip()


def _below_thousand(value: int, link: str) -> str:
    hundreds, rest = divmod(value, 100)
    words = [f"{_SMALL[hundreds]} hundred"] if hundreds else []
    if rest:
        words += [link] if hundreds and link else []
        words.append(_below_hundred(rest))
    return " ".join(words)


def _below_hundred(value: int) -> str:
    if value < len(_SMALL):
        return _SMALL[value]
    tens, units = divmod(value, 10)
    return f"{_TENS[tens]}-{_SMALL[units]}" if units else _TENS[tens]
