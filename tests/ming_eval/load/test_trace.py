"""Traces: both spellings of time, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ming_eval.errors import DataError
from ming_eval.load.trace import TraceRow, read_trace


def trace(folder: Path, text: str) -> Path:
    path = folder / "trace.jsonl"
    path.write_text(text)
    return path


def test_seconds_and_milliseconds_count_from_the_first_row(tmp_path: Path) -> None:
    text = '{"timestamp": 1500, "output_length": 5, "hash_ids": [1]}\n\n{"timestamp_s": 1.0, "text": "a"}\n'
    rows = read_trace(trace(tmp_path, text))
    assert rows == (TraceRow(0.0, "a", None), TraceRow(0.5, None, 5))


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ('{"text": "a"}', "line 1: neither"), ('{"timestamp": "soon"}', "line 1")]
)
def test_a_bad_trace_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_trace(trace(tmp_path, text))


def test_a_missing_trace(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the trace"):
        read_trace(tmp_path / "none")
