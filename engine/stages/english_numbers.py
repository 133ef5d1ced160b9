"""Digits, units and amounts in English text as words, in the order in which the released front end expands them."""

from __future__ import annotations

import re
from collections.abc import Callable
from re import Match

from engine.stages.number_words import cardinal, decimal, ordinal

_NUMBER = r"\d+(?:\.\d+)?"

# Symbol -> (one, several); symbols that are also words or single letters are left alone.
_UNITS = {
    **{symbol: (word, word) for symbol, word in {
        "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz"}.items()},
    **{symbol: (word, word + "s") for symbol, word in {
        "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "kg": "kilogram", "mg": "milligram",
        "ml": "milliliter", "mL": "milliliter", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte",
        "TB": "terabyte", "ms": "millisecond", "kW": "kilowatt", "MW": "megawatt", "kWh": "kilowatt hour"}.items()},
    "mph": ("mile per hour", "miles per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
}  # fmt: skip

_DENOMINATORS = {"2": ("half", "halves"), "4": ("quarter", "quarters")}

_SYMBOLS = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))


def _counted(number: str, names: tuple[str, str]) -> str:
    return f"{decimal(number)} {names[number != '1']}"


def _unit(found: Match[str]) -> str:
    return _counted(found[1], _UNITS[found[2]])


def _pounds(found: Match[str]) -> str:
    return _counted(found[1], ("pound", "pounds")) + " "


def _dollars(found: Match[str]) -> str:
    return _counted(found[1], ("dollar", "dollars")) + " "


def _fraction(found: Match[str]) -> str:
    numerator, denominator = found[1], found[2]
    if int(denominator) < 2:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    names = _DENOMINATORS.get(denominator) or (ordinal(denominator), ordinal(denominator) + "s")
    return _counted(numerator, names)


_RULES: tuple[tuple[re.Pattern[str], Callable[[Match[str]], str]], ...] = (
    (re.compile(r"\b\d{1,3}(?:,\d{3})+\b"), lambda found: found[0].replace(",", "")),
    (re.compile(rf"\b({_NUMBER})\s?({_SYMBOLS})(?![A-Za-z])"), _unit),
    (re.compile(rf"£\s?({_NUMBER})"), _pounds),
    (re.compile(rf"\$\s?({_NUMBER})"), _dollars),
    (re.compile(r"(?<![\d/])\b(\d+)/(\d+)\b(?![\d/])"), _fraction),
    (re.compile(rf"\b({_NUMBER})\s?%"), lambda found: f"{decimal(found[1])} percent"),
    # As released: a cardinal, "the three day".
    (re.compile(r"\b(\d+)(?:st|nd|rd|th)\b"), lambda found: cardinal(found[1])),
    (re.compile(rf"\b([A-Za-z]+)-?({_NUMBER})\b"), lambda found: f"{found[1]} {decimal(found[2])}"),
    # Digits beside Chinese characters have no word boundary and stay as they are.
    (re.compile(rf"\b{_NUMBER}\b"), lambda found: decimal(found[0])),
)


def expand_numbers(text: str) -> str:
    """`text` with its numbers in words and runs of white space as one space."""
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    return re.sub(r"\s+", " ", text).strip()
