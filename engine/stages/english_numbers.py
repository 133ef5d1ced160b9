"""Digits, units and amounts in English text as words: the rules of the released front end, in its order."""

from __future__ import annotations

import re
from collections.abc import Callable
from re import Match

from engine.stages.number_words import cardinal, decimal, ordinal

_UNITS = {
    "ms": "milliseconds",
    "s": "seconds",
    "hz": "hertz",
    "khz": "kilohertz",
    "mhz": "megahertz",
    "ghz": "gigahertz",
    "kb": "kilobytes",
    "mb": "megabytes",
    "gb": "gigabytes",
    "tb": "terabytes",
    "bps": "bits per second",
    "kbps": "kilobits per second",
    "mbps": "megabits per second",
    "gbps": "gigabits per second",
    "cm": "centimeters",
    "km": "kilometers",
    "kg": "kilograms",
    "v": "volts",
    "a": "amperes",
    "w": "watts",
    "°c": "degrees celsius",
    "°f": "degrees fahrenheit",
}
_SYMBOLS = "|".join(_UNITS)

_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def _signed(number: str) -> str:
    """Words of a number that may be negative."""
    unsigned = number.lstrip("-")
    return f"minus {decimal(unsigned)}" if number.startswith("-") else decimal(unsigned)


def _quantity(number: str, name: str, unread: str = "") -> str:
    """An amount of something; what is no number stays as it is, or as `unread`."""
    try:
        return f" {_signed(number)} {name} "
    except ValueError:
        return f" {unread or number} {name} "


def _unit(found: Match[str]) -> str:
    symbol = found[2].lower()
    return _quantity(found[1], _UNITS.get(symbol, symbol))  # a long s matches, too


def _money(one: str, several: str) -> Callable[[Match[str]], str]:
    def say(found: Match[str]) -> str:
        amount = found[1].lstrip("-")
        is_one = re.fullmatch(r"0*1(?:\.0+)?", amount) is not None
        return _quantity(found[1], one if is_one else several, unread=amount)

    return say


def _fraction(found: Match[str]) -> str:
    numerator, denominator = int(found[1]), int(found[2])
    try:
        over, under = cardinal(found[1], "and"), cardinal(found[2], "and")
    except ValueError:
        return f" {numerator} over {denominator} "
    if denominator in _DENOMINATORS:
        return f" {over} {_DENOMINATORS[denominator][numerator != 1]} "
    return f" {over} {ordinal(under)} "  # in the singular, as released


def _ordinal(found: Match[str]) -> str:
    """As released, a cardinal: "the three day"."""
    try:
        return f" {cardinal(found[1], 'and')} "
    except ValueError:
        return found[0]


def _version(found: Match[str]) -> str:
    try:
        return f"{found[1]} {decimal(found[2], 'and')}"
    except ValueError:
        return found[0]


def _number(found: Match[str]) -> str:
    try:
        return f" {_signed(found[0])} "
    except ValueError:
        return f" {found[0]} "


_RULES: tuple[tuple[re.Pattern[str], Callable[[Match[str]], str]], ...] = (
    (re.compile(r"[0-9][0-9,]+[0-9]"), lambda found: found[0].replace(",", "")),
    (re.compile(rf"\b(-?\d+(?:\.\d+)?)\s*({_SYMBOLS})\b", re.IGNORECASE), _unit),
    (re.compile(r"£(-?[0-9,]*[0-9]+(?:\.[0-9]+)?)"), _money("pound", "pounds")),
    (re.compile(r"\$(-?[0-9.,]*[0-9]+(?:\.[0-9]+)?)"), _money("dollar", "dollars")),
    (re.compile(r"([0-9]+)/([0-9]+)"), _fraction),
    # The released pattern without its alternatives takes cubic time.
    (re.compile(r"(-[0-9.,]*[0-9]|(?<![0-9.,])[0-9.,]*[0-9])%"), lambda found: _quantity(found[1], "percent")),
    (re.compile(r"\b([0-9]+)(?:st|nd|rd|th)\b"), _ordinal),
    (re.compile(r"\b([a-zA-Z]+)-?([0-9]+(?:\.[0-9]+)?)\b"), _version),
    # Digits beside Chinese characters have no word boundary and stay as they are.
    (re.compile(r"\b-?[0-9]+(?:\.[0-9]+)?\b"), _number),
)


def expand_numbers(text: str) -> str:
    """`text` with its numbers in words and runs of white space as one space."""
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    return re.sub(r"\s+", " ", text).strip()
