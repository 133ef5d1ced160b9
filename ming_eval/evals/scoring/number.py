"""Numbers: the one after the last cue, else the last one of the last line that has one; compared exactly."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from ming_eval.evals.item import Item, Reply, Score, judged, unparsed
from ming_eval.evals.scoring.prepare import boxed_span, without_markup, without_reasoning
from ming_eval.evals.scoring.refusal import reason_of

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+"
# A sign counts where no number or word stands in front of it: `5-3` holds 5 and 3.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)])[-+])?\s?[$€£¥₹]?\s?(?P<value>{_DIGITS})(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?(?![\w]*\d)"
)
_MOST_DIGITS = 100
_FRACTION_MACRO = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_ANSWER = re.compile(
    r"\banswers?(?:\s+(?:to|for)\s+[^.:;\n]{1,60}?)?\s*(?:\s(?:is|are|would be|must be)\b\s*:?|:|=)"
    r"|答案\s*(?:是|为|為|:)",
    re.IGNORECASE,
)
_HASHES = re.compile(r"####")
_EQUALS_AT_END = re.compile(rf"=(?=[^=\d\n]{{0,12}}(?:{_DIGITS})[^=\d\n]*\s*\Z)")


@dataclass(frozen=True, slots=True)
class _Cue:
    """A place after which the answer stands."""

    rule: str
    start: int
    end: int


def score_number(item: Item, reply: Reply, tolerance: float | None = None) -> Score:
    """Right when the number in the reply is the item's, or within the relative `tolerance` of it."""
    text = prepare_number(reply.text)
    if text is None:
        return unparsed(reason_of(None, reply))
    found = find_number(text)
    if found is None:
        return unparsed(reason_of(text, reply))
    rule, number = found
    gold = Fraction(item.gold_texts[0])
    return judged(is_equal(number, gold, tolerance), rule, written(number))


def prepare_number(text: str) -> str | None:
    """The text that numbers are looked for in; None when only unfinished reasoning came.

    A boxed answer becomes a line of its own with the cue `####`, whose meaning is the same.
    """
    answer = without_reasoning(unicodedata.normalize("NFKC", text).replace("\u2212", "-"))
    if answer is None:
        return None
    answer = _FRACTION_MACRO.sub(r"\1/\2", answer.replace("{,}", ",").replace("\\,", "").replace("\\$", "$"))
    span = boxed_span(answer)
    if span is not None:
        start, inner_start, inner_end = span
        answer = f"{answer[:start]}\n#### {answer[inner_start:inner_end]}\n{answer[inner_end + 1 :]}"
    return without_markup(answer).strip()


def find_number(text: str) -> tuple[str, Fraction] | None:
    """Name of the rule and the number that a prepared reply ends in; None without any."""
    cue = _last_cue(text)
    if cue is not None:
        match = _NUMBER.search(_rest_of_line(text, cue.end))
        if match is not None and (number := _value(match)) is not None:
            return cue.rule, number
    for line in reversed(text.splitlines()):
        numbers = [number for match in _NUMBER.finditer(line) if (number := _value(match)) is not None]
        if numbers:
            return "lastline", numbers[-1]
    return None


def is_equal(number: Fraction, gold: Fraction, tolerance: float | None) -> bool:
    """True when both are the same number, or differ by at most `tolerance` of the gold one."""
    if tolerance is None or gold == 0:
        return number == gold
    return abs(number - gold) <= Fraction(tolerance) * abs(gold)


def written(number: Fraction) -> str:
    """A number as one would write it: `72`, `0.5`, `1/3`."""
    if number.denominator == 1:
        return str(number.numerator)
    decimal = float(number)
    return repr(decimal) if Fraction(repr(decimal)) == number else str(number)


def is_sensible(text: str) -> bool:
    """False of digits without end and of `1e999999999`, which a model in a loop writes and nothing can compute."""
    digits, _, exponent = text.lower().partition("e")
    return len(digits) <= _MOST_DIGITS and (not exponent or (len(exponent) <= 4 and abs(int(exponent)) <= _MOST_DIGITS))


def _last_cue(text: str) -> _Cue | None:
    finders: dict[str, Callable[[str], list[re.Match[str]]]] = {
        "answer": lambda text: list(_ANSWER.finditer(text)),
        "marker": lambda text: list(_HASHES.finditer(text)),
        "equals": lambda text: list(_EQUALS_AT_END.finditer(text)),
    }
    cues = [_Cue(rule, match.start(), match.end()) for rule, find in finders.items() for match in find(text)]
    return max(cues, key=lambda cue: cue.start, default=None)


def _rest_of_line(text: str, start: int) -> str:
    """From `start` to the end of the line, or the next line where nothing follows on this one."""
    line, _, later = text[start:].partition("\n")
    return line if line.strip() else later.lstrip("\n").partition("\n")[0]


def _value(match: re.Match[str]) -> Fraction | None:
    if not is_sensible(match["value"]) or not is_sensible(match["below"] or ""):
        return None
    value = Fraction(match["value"].replace(",", ""))
    if match["below"] is not None:
        below = Fraction(match["below"])
        if below == 0:
            return None
        value /= below
    return -value if match["sign"] == "-" else value
