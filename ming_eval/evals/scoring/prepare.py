"""A raw reply -> the text that extraction rules read: no reasoning, no mark-up."""

from __future__ import annotations

import re
import unicodedata

_REASONING = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"))
_FENCE = re.compile(r"^[ \t]*```[\w+-]*[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,3}[ \t]+", re.MULTILINE)
_STRONG = re.compile(r"\*{2,}|__|`+")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\S(?:[^*\n]*\S)?)\*(?![\w*])")
_TEXT_MACRO = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mathsf)\{([^{}]*)\}")
_BRACE = re.compile(r"\\boxed\{|[{}]")
_MATH_FENCE = re.compile(r"\\[()\[\]]|\$\$")
_MATH_LETTER = re.compile(r"\$\s*([A-Za-z])\s*\$")


def without_reasoning(text: str) -> str | None:
    """The reply without its reasoning section; None when that section has no end, so that no answer was given.

    A closing marker alone ends a section that the prompt had opened.
    """
    for opening, closing in _REASONING:
        head, found, answer = text.rpartition(closing)
        if found:
            text = head.partition(opening)[0] + answer if opening in head else answer
        if opening in text:
            return None
    return text


def prepare(text: str) -> str | None:
    """The text that answers are looked for in; None when only unfinished reasoning came."""
    answer = without_reasoning(unicodedata.normalize("NFKC", text))
    return None if answer is None else without_markup(answer).strip()


def without_markup(text: str) -> str:
    """`text` without emphasis, back-ticks, heading marks and the macros around a boxed answer."""
    text = _FENCE.sub("", text)
    text = _EMPHASIS.sub(r"\1", _STRONG.sub("", _HEADING.sub("", text)))
    text = _TEXT_MACRO.sub(r"\1", unboxed(text))
    return _MATH_LETTER.sub(r"\1", _MATH_FENCE.sub("", text))


def unboxed(text: str) -> str:
    r"""Every `\boxed{...}` replaced by what is in it, and `$` signs directly around it removed."""
    dropped: list[tuple[int, int]] = []
    for start, inner_start, inner_end in _boxed_spans(text):
        has_signs = text[max(0, start - 1) : start] == "$" == text[inner_end + 1 : inner_end + 2]
        dropped += [(start - has_signs, inner_start), (inner_end, inner_end + 1 + has_signs)]
    kept, at = [], 0
    for begin, end in sorted(dropped):
        kept.append(text[at:begin])
        at = max(at, end)
    return "".join([*kept, text[at:]])


def boxed_span(text: str) -> tuple[int, int, int] | None:
    r"""Where the last `\boxed{` starts, and start and end of what is in it; None without one that is closed."""
    return max(_boxed_spans(text), default=None)


def _boxed_spans(text: str) -> list[tuple[int, int, int]]:
    """Of every closed box, in one pass: a model that has fallen into a loop writes thousands."""
    open_braces: list[tuple[int | None, int]] = []
    spans = []
    for match in _BRACE.finditer(text):
        if match[0] != "}":
            is_box = len(match[0]) > 1
            open_braces.append((match.start() if is_box else None, match.end()))
        elif open_braces:
            start, inner_start = open_braces.pop()
            if start is not None:
                spans.append((start, inner_start, match.start()))
    return spans
