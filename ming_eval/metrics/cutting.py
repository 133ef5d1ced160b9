"""Takes spans of time out of records, so that what is computed from them does not see those spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ming_eval.types import Outage, RequestRecord


def cut_out(records: Sequence[RequestRecord], spans: Sequence[Outage]) -> list[RequestRecord]:
    """The same records on a clock that stands still during `spans`: for rates and overlaps, never for latencies."""
    merged = _merged(spans)
    if not merged:
        return list(records)

    def moved(time_s: float) -> float:
        return time_s - sum(min(time_s, span.end_s) - span.start_s for span in merged if span.start_s < time_s)

    def moved_or_none(time_s: float | None) -> float | None:
        return None if time_s is None else moved(time_s)

    return [
        replace(
            record,
            intended_s=moved_or_none(record.intended_s),
            sent_s=moved(record.sent_s),
            first_output_s=moved_or_none(record.first_output_s),
            last_output_s=moved_or_none(record.last_output_s),
            done_s=moved(record.done_s),
            output_times_s=tuple(map(moved, record.output_times_s)),
        )
        for record in records
    ]


def _merged(spans: Sequence[Outage]) -> list[Outage]:
    """Disjoint, in order."""
    found: list[Outage] = []
    for span in sorted(spans, key=lambda span: span.start_s):
        if found and span.start_s <= found[-1].end_s:
            found[-1] = Outage(found[-1].start_s, max(found[-1].end_s, span.end_s))
        else:
            found.append(span)
    return found
