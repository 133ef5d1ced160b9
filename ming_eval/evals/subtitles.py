"""Subtitles as a prompt shows them: the lines on screen at the sampled times, or all of them (SubRip files)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TIME = r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})"
_SPAN = re.compile(rf"{_TIME}\s*-->\s*{_TIME}")
_MARKUP = re.compile(r"<[^>]+>|\{\\[^}]*\}")


@dataclass(frozen=True, slots=True)
class Line:
    """A subtitle and when it is on screen, in seconds."""

    start_s: float
    end_s: float
    text: str


def subtitle_block(path: Path, times_s: Sequence[float] | None) -> str | None:
    """The subtitles of a file on screen at `times_s`, or all of them; None without any.

    Raises:
        OSError: the file cannot be read.
    """
    lines = parse_srt(path.read_text(encoding="utf-8", errors="replace"))
    shown = lines if times_s is None else on_screen(lines, times_s)
    return "\n".join(without_repeats(line.text for line in shown)) or None


def parse_srt(text: str) -> list[Line]:
    """The subtitles of a SubRip file in the order of time, without markup; each on one line."""
    lines = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\ufeff", "")):
        match = _SPAN.search(block)
        if match is None:
            continue
        shown = " ".join(_MARKUP.sub("", block[match.end() :]).split())
        if shown:
            lines.append(Line(_seconds(match.groups()[:4]), _seconds(match.groups()[4:]), shown))
    return sorted(lines, key=lambda line: line.start_s)


def on_screen(lines: Iterable[Line], times_s: Sequence[float]) -> list[Line]:
    """The lines that are shown at one of the times."""
    return [line for line in lines if any(line.start_s <= time_s <= line.end_s for time_s in times_s)]


def without_repeats(texts: Iterable[str]) -> list[str]:
    """Each text once, where it comes first."""
    return list(dict.fromkeys(texts))


def _seconds(parts: Sequence[str]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
