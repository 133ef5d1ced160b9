"""What the released rules for English numbers would misread, in words before they see it: dates, times, spans.

They read "2024-03-05" as a subtraction, "2 a day" as amperes, "the 1980s" as seconds and "3rd" as "three".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from re import Match

from engine.stages.number_words import cardinal, decimal, ordinal, spell_out

_NUMBER = r"\d{1,15}(?:\.\d+)?"
_ALONE = r"(?<![\w.,/:-])"
_END = r"(?![\w/:-]|[.,]\d)"

_MONTHS = "January February March April May June July August September October November December".split()
_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion"}
_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros", "¥": "yen"}

# Symbol -> (one, several). The released rules know some of them, always as several.
_UNITS = {
    "km": ("kilometer", "kilometers"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "kg": ("kilogram", "kilograms"),
    "mg": ("milligram", "milligrams"),
    "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "ms": ("millisecond", "milliseconds"),
    "kW": ("kilowatt", "kilowatts"),
    "MW": ("megawatt", "megawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "mph": ("mile per hour", "miles per hour"),
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
}
_SYMBOLS = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_DENOMINATORS = {"2": ("half", "halves"), "4": ("quarter", "quarters")}


def _counted(number: str, names: tuple[str, str]) -> str:
    return f"{decimal(number)} {names[number != '1']}"


def _date(found: Match[str]) -> str:
    return f"{_MONTHS[int(found['m']) - 1]} {ordinal(cardinal(found['d']))}, {cardinal(found['y'])}"


def _clock(found: Match[str]) -> str:
    hour, minute, half = cardinal(found["h"]), found["m"] or "00", found["half"]
    said = hour if minute == "00" else f"{hour} {'oh ' * minute.startswith('0')}{cardinal(minute)}"
    return f"{said} {half}" if half else said


def _decade(found: Match[str]) -> str:
    century, tens = cardinal(found[1]), cardinal(found[2])
    if found[2] == "00":
        return "two thousands" if found[1] == "20" else f"{century} hundreds"
    return f"{century} {tens.removesuffix('y')}ies" if tens.endswith("y") else f"{century} {tens}s"


def _span(found: Match[str]) -> str:
    """From the smaller to the larger; otherwise it is a difference."""
    return f"{found[1]} to {found[2]}" if int(found[1]) < int(found[2]) else found[0]


def _dialled(found: Match[str]) -> str:
    return ", ".join(map(spell_out, found[0].split("-")))


def _fraction(found: Match[str]) -> str:
    numerator, denominator = found[1], found[2]
    if int(denominator) < 2:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    name = ordinal(cardinal(denominator))
    return _counted(numerator, _DENOMINATORS.get(denominator, (name, f"{name}s")))


def _millions(found: Match[str]) -> str:
    scale = _SCALES.get(found[3].lower(), found[3])
    return f"{decimal(found[2])} {scale} {_CURRENCIES[found[1]]}"


_RULES: tuple[tuple[re.Pattern[str], Callable[[Match[str]], str]], ...] = (
    (re.compile(r"\d{16,}"), lambda found: f" {spell_out(found[0])} "),  # nobody counts that far
    (re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,]*\d)"), lambda found: found[0].replace(",", "")),
    # Dates and times of day.
    (re.compile(rf"{_ALONE}(?P<y>\d{{4}})([-/])(?P<m>0?[1-9]|1[0-2])\2(?P<d>0?[1-9]|[12]\d|3[01]){_END}"), _date),
    (re.compile(rf"{_ALONE}\d{{1,2}}/\d{{1,2}}/\d{{4}}{_END}"), lambda found: found[0].replace("/", " ")),
    (re.compile(r"(?<=:[0-5]\d) ?[-–—] ?(?=\d{1,2}:[0-5]\d)"), lambda _: " to "),
    (re.compile(rf"{_ALONE}(?P<h>0?\d|1[0-2])(?::(?P<m>[0-5]\d))? ?(?P<half>[ap]m)\b"), _clock),
    (re.compile(rf"{_ALONE}(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?P<half>)(?![\d:])"), _clock),
    (re.compile(rf"{_ALONE}(1\d|20)(\d0)s\b"), _decade),
    # Versions and addresses, numbers to dial, spans, signs.
    (
        re.compile(r"(?<![\d.])\d{1,15}(?:\.\d{1,15}){2,}(?![\d.]*\d)"),
        lambda found: " point ".join(map(cardinal, found[0].split("."))),
    ),
    (re.compile(rf"{_ALONE}\d+(?:-\d+){{2,}}(?!\w)"), _dialled),
    (re.compile(rf"{_ALONE}(\d{{1,4}}) ?[-–—] ?(\d{{1,4}})(?![\d.-]*\d)"), _span),
    (re.compile(r"(?<![^\s(])[-−](?=[$£€]?\d)"), lambda _: "minus "),
    # Amounts, and parts of one.
    (re.compile(rf"([$£€¥]) ?({_NUMBER}) ?(thousand|million|billion|trillion|bn|[kKmMB])\b"), _millions),
    (re.compile(rf"([€¥]) ?({_NUMBER})"), lambda found: f"{decimal(found[2])} {_CURRENCIES[found[1]]}"),
    (re.compile(rf"{_ALONE}(\d{{1,15}})/(\d{{1,15}}){_END}"), _fraction),
    (re.compile(rf"(?<![\w.,])({_NUMBER}) ?({_SYMBOLS})(?![A-Za-z/])"), lambda f: _counted(f[1], _UNITS[f[2]])),
    # No amperes, no seconds.
    (re.compile(rf"(?<![\w.,])({_NUMBER})(?= (?:a|s|v|w)\b)"), lambda found: decimal(found[1])),
    (re.compile(r"\b(\d{1,15})(?:st|nd|rd|th)\b"), lambda found: ordinal(cardinal(found[1]))),
)


def prepare_readings(text: str) -> str:
    """`text` with what needs care in words, and all other numbers as they are."""
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    return text
