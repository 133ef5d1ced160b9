"""What a report says about the client itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ming_eval.metrics.validity import Trust, Validity
from ming_eval.report.grid import number, percent
from ming_eval.results import Summary

_MEANING = {
    Trust.VALID: "the client kept up",
    Trust.SUSPECT: "some figures may be the client's own",
    Trust.INVALID: "the client did not keep up; do not use these figures",
}


def validity_lines(summary: Summary) -> list[str]:
    """The verdict on the client, what it rests on, and every reason for doubt; nothing for a run without one."""
    if summary.validity is None:
        return []
    verdict = summary.validity.verdict
    seen = [point.validity for point in summary.points if point.validity is not None]
    return [f"Client: {verdict}, {_MEANING[verdict]} ({_worst(seen)}).", *(f"{r}." for r in summary.validity.reasons)]


def _worst(seen: Sequence[Validity]) -> str:
    parts = [
        f"CPU at most {percent(_most(v.cpu_share for v in seen))} of a core",
        f"event-loop lag p99 {number(_most(v.loop_lag_p99_ms for v in seen))} ms",
        f"receive lag p99 {number(_most(v.receive_lag_p99_ms for v in seen))} ms",
    ]
    if (lag := _most(v.send_lag_p99_ms for v in seen)) is not None:
        parts.append(f"send lag p99 {number(lag)} ms")
    return ", ".join(parts)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
