"""A recorded trace: when requests came, and what is known of them; one JSON object a line.

`timestamp_s` is in seconds, `timestamp` in milliseconds (as published traces have it); only differences count. `text`
is the prompt; `output_tokens` (or `output_length`) how long the answer was. Other keys are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from ming_eval.errors import DataError


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request; `time_s` counts from the first of the trace."""

    time_s: float
    text: str | None
    output_tokens: int | None


class _Line(msgspec.Struct):
    timestamp_s: float | None = None
    timestamp: float | None = None
    text: str | None = None
    output_tokens: int | None = None
    output_length: int | None = None


@lru_cache(maxsize=1)
def read_trace(path: Path) -> tuple[TraceRow, ...]:
    """The rows of a trace in order of time.

    Raises:
        DataError: the file cannot be read, is empty, or a line has no time.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise DataError(f"cannot read the trace {path}: {exc.strerror}") from exc
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"the trace {path} is empty: want one JSON object a line with timestamp_s or timestamp")
    first_s = min(row.time_s for row in rows)
    moved = [TraceRow(row.time_s - first_s, row.text, row.output_tokens) for row in rows]
    return tuple(sorted(moved, key=lambda row: row.time_s))


def mean_rate(rows: Sequence[TraceRow]) -> tuple[float, ...]:
    """Requests per second over the rows, to three digits, by which the point is named; nothing where no time passes."""
    span_s = rows[-1].time_s - rows[0].time_s
    return (float(f"{(len(rows) - 1) / span_s:.3g}"),) if span_s else ()


def _row(path: Path, number: int, line: bytes) -> TraceRow:
    try:
        found = msgspec.json.decode(line, type=_Line)
    except msgspec.DecodeError as exc:
        raise DataError(f"{path}, line {number}: {exc}") from exc
    if found.timestamp_s is not None:
        time_s = found.timestamp_s
    elif found.timestamp is not None:
        time_s = found.timestamp / 1000
    else:
        raise DataError(f"{path}, line {number}: neither timestamp_s (seconds) nor timestamp (milliseconds)")
    output_tokens = found.output_tokens if found.output_tokens is not None else found.output_length
    return TraceRow(time_s, found.text, output_tokens)
