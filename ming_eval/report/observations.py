"""Sentences that a reader would otherwise work out from the table; each is computed, none is a guess at a cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ming_eval.report.grid import number, percent
from ming_eval.report.scaling import curves, elasticity, find_knee, speedup
from ming_eval.results import Point, Summary

_LONG_TAIL = 2.0  # p95 E2E over its median
_REACHED = 0.98  # of the concurrency asked for
_ENOUGH_FOR_P99 = 100


def observations(summary: Summary) -> list[str]:
    """What the run shows, as plain sentences; per backend where there are several."""
    found = [failures(summary)]
    by_backend = curves(summary)
    for name, points in by_backend.items():
        prefix = f"{name}: " if len(by_backend) > 1 else ""
        found += [prefix + line for line in _of_backend(points)]
    return [*found, *short_replies(summary), *_of_run(summary.points)]


def _of_backend(points: Sequence[Point]) -> list[str]:
    checks: tuple[Callable[[Sequence[Point]], str | None], ...] = (scaling, knee, tail, warmup, reached, lengths)
    return [line for check in checks if (line := check(points)) is not None]


def _of_run(points: Sequence[Point]) -> list[str]:
    return [line for check in (token_sources, small_samples) if (line := check(points)) is not None]


def failures(summary: Summary) -> str:
    """How many requests failed, of which classes and where."""
    if summary.requests == 0:
        return "No request has ended."
    if summary.failed == 0:
        return f"All {summary.requests} requests succeeded."
    places = [
        f"{point.backend} c={point.concurrency}: {_counts(point.failures)}" for point in summary.points if point.failed
    ]
    share = percent(summary.error_rate)
    return f"{summary.failed} of {summary.requests} requests failed ({share}): {'; '.join(places)}."


def scaling(points: Sequence[Point]) -> str | None:
    """Throughput at the highest load against that at the lowest."""
    if len(points) < 2:
        return None
    best = max(points, key=lambda point: point.output_tokens_per_s or 0.0)
    gain = speedup(points[-1], points[0])
    if gain is None:
        return None
    line = f"c={points[-1].concurrency} gives {gain:.2f} x the tokens per second of c={points[0].concurrency}"
    if best is points[-1]:
        return f"{line}: {number(best.output_tokens_per_s)} tok/s, the highest of the run."
    return f"{line}; the highest is {number(best.output_tokens_per_s)} tok/s at c={best.concurrency}."


def knee(points: Sequence[Point]) -> str | None:
    """Where more load stops to pay; silent with fewer than three points."""
    known = [point for point in points if point.output_tokens_per_s]
    if len(known) < 3:
        return None
    found = find_knee(points)
    if found is None:
        grown = elasticity(known[-2], known[-1])
        assert grown is not None  # both have a throughput
        return f"No knee up to c={known[-1].concurrency}: throughput still follows the load there (power {grown:.2f})."
    more = speedup(found.next, found.at)
    assert more is not None
    waits = _ratio(found.next.e2e_ms.p50, found.at.e2e_ms.p50)
    cost = f", median E2E {waits:.2f} x as long" if waits is not None else ""
    step = f"from there to c={found.next.concurrency} throughput is {more:.2f} x{cost}"
    return f"Knee at c={found.at.concurrency}: {step}."


def tail(points: Sequence[Point]) -> str | None:
    """How far the slow requests lie from the median, at the worst point."""
    ratios = [(ratio, point) for point in points if (ratio := _ratio(point.e2e_ms.p95, point.e2e_ms.p50)) is not None]
    if not ratios:
        return None
    worst, point = max(ratios, key=lambda item: item[0])
    if worst < _LONG_TAIL:
        return f"Tail: p95 E2E is at most {worst:.2f} x the median (at c={point.concurrency})."
    figures = f"{number(point.e2e_ms.p95)} against {number(point.e2e_ms.p50)} ms"
    return f"Long tail: at c={point.concurrency} p95 E2E is {worst:.2f} x the median ({figures})."


def warmup(points: Sequence[Point]) -> str | None:
    """Failures before the measurement, which no figure shows."""
    failed, total = (
        sum(counts) for counts in zip(*((p.warmup_failed, p.warmup_requests) for p in points), strict=True)
    )
    return f"{failed} of {total} warm-up requests failed; they count in no figure." if failed else None


def reached(points: Sequence[Point]) -> str | None:
    """Points at which fewer requests were in flight than asked for."""
    short = [f"c={point.concurrency}: {figure}" for point in points if (figure := _shortfall(point)) is not None]
    return f"Fewer requests in flight than asked for: {', '.join(short)}." if short else None


def _shortfall(point: Point) -> str | None:
    most, mean = point.achieved_concurrency.max, point.achieved_concurrency.mean
    if most < point.concurrency:
        return f"at most {most}"
    return f"{mean:.1f} on average" if mean is not None and mean < _REACHED * point.concurrency else None


def lengths(points: Sequence[Point]) -> str | None:
    """Why replies ended, when they did not all end in the same way."""
    reasons: Counter[str] = Counter()
    for point in points:
        reasons.update(point.finish_reasons)
    return f"Replies ended for different reasons: {_counts(reasons)}." if len(reasons) > 1 else None


def short_replies(summary: Summary) -> list[str]:
    """Backends whose replies are shorter than the fixed length that was asked for."""
    asked = summary.settings.get("max_tokens")
    if not summary.settings.get("ignore_eos") or not isinstance(asked, int):
        return []
    lines = []
    for name, points in curves(summary).items():
        num_good = sum(point.requests - point.failed for point in points)
        tokens = sum(point.output_tokens or 0 for point in points)
        if 0 < tokens < num_good * asked:
            mean = f"{tokens / num_good:.1f}"
            lines.append(f"{name}: replies are {mean} tokens long on average, not {asked}: the model ended them.")
    return lines


def token_sources(points: Iterable[Point]) -> str | None:
    """Token counts that are not the server's own, or do not compare."""
    sources = sorted({point.token_source for point in points if point.token_source is not None})
    if len(sources) > 1:
        return f"Token counts come from {' and '.join(sources)}: token rates of these points do not compare."
    if sources and sources[0] != "usage":
        return f"Output tokens are counted from {sources[0]}: the server reported no final usage."
    return None


def small_samples(points: Iterable[Point]) -> str | None:
    """What a p99 of few requests is worth."""
    few = [point for point in points if 0 < point.requests < _ENOUGH_FOR_P99]
    if not few:
        return None
    return (
        f"Points with fewer than {_ENOUGH_FOR_P99} requests: {len(few)}; their p95 and p99 rest on a handful of them."
    )


def _counts(counts: Mapping[str, int]) -> str:
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in items)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
