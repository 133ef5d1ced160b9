"""Numbers as English words: "1,234" is "one thousand, two hundred thirty-four"."""

from __future__ import annotations

from collections.abc import Iterator

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = ("", "", *"twenty thirty forty fifty sixty seventy eighty ninety".split())
_SCALES = ("", *"thousand million billion trillion".split())
_MAX_DIGITS = 3 * len(_SCALES)  # beyond, nobody counts: digits are read one by one

_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_ORDINALS |= {"twelve": "twelfth"}


def cardinal(digits: str) -> str:
    """Words of a whole number, given as ASCII digits."""
    digits = digits.lstrip("0")
    if not digits:
        return _SMALL[0]
    if len(digits) > _MAX_DIGITS:
        return spell_out(digits)
    *larger, last = _groups(int(digits))
    if not larger:
        return last
    # What remains below a hundred follows without a pause: "two thousand fourteen".
    pause = " " if 0 < int(digits) % 1000 < 100 else ", "
    return ", ".join(larger) + pause + last


def decimal(number: str) -> str:
    """Words of a number that may have decimals, which are read digit by digit."""
    whole, _, fraction = number.partition(".")
    return f"{cardinal(whole)} point {spell_out(fraction)}" if fraction else cardinal(whole)


def spell_out(digits: str) -> str:
    """Digit after digit."""
    return " ".join(_SMALL[int(digit)] for digit in digits)


def ordinal(digits: str) -> str:
    """Words of a position: "twenty-first"."""
    words = cardinal(digits)
    last = words.replace("-", " ").split()[-1]
    if last in _ORDINALS:
        return words.removesuffix(last) + _ORDINALS[last]
    return f"{words[:-1]}ieth" if words.endswith("y") else f"{words}th"


def _groups(value: int) -> Iterator[str]:
    """Thousands apart, the largest first."""
    for power in range(len(_SCALES) - 1, -1, -1):
        group = value // 1000**power % 1000
        if group:
            yield f"{_below_thousand(group)} {_SCALES[power]}".rstrip()


def _below_thousand(value: int) -> str:
    hundreds, rest = divmod(value, 100)
    words = [f"{_SMALL[hundreds]} hundred"] if hundreds else []
    if rest:
        words.append(_below_hundred(rest))
    return " ".join(words)


def _below_hundred(value: int) -> str:
    if value < len(_SMALL):
        return _SMALL[value]
    tens, units = divmod(value, 10)
    return f"{_TENS[tens]}-{_SMALL[units]}" if units else _TENS[tens]
