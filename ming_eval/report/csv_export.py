"""Figures as comma-separated values: one row per point of a sweep, case of a coverage run, suite of an accuracy run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ming_eval.accuracy_results import AccuracySummary
from ming_eval.results import CoverageSummary, RunSummary, Summary

Row = dict[str, object]


def to_csv(summaries: Sequence[RunSummary]) -> str:
    """All rows under one header; names inside objects are joined by dots (`ttft_ms.p50`), None is empty."""
    rows = [row for summary in summaries for row in _rows(summary)]
    header = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(summary: RunSummary) -> Iterator[Row]:
    entries: Sequence[object] = ()
    if isinstance(summary, Summary):
        entries = summary.points
    elif isinstance(summary, CoverageSummary):
        entries = summary.cases
    elif isinstance(summary, AccuracySummary):
        entries = summary.suites
    for entry in entries:
        yield {"run": summary.run, **dict(_flat(msgspec.to_builtins(entry)))}


def _flat(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        elif isinstance(inner, (list, tuple)):
            yield f"{prefix}{name}", json.dumps(inner, ensure_ascii=False)
        else:
            yield f"{prefix}{name}", inner
