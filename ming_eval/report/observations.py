"""Sentences that a reader would otherwise work out from the table; each is computed, none is a guess at a cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ming_eval.metrics.prometheus import ServerView
from ming_eval.report.grid import FEWEST_LOOKS, number, percent
from ming_eval.report.scaling import curves, elasticity, find_knee, speedup
from ming_eval.report.validity import validity_lines
from ming_eval.results import Goodput, Point, Summary

_LONG_TAIL = 2.0  # p95 E2E over its median
_REACHED = 0.98  # of the concurrency asked for
_ENOUGH_FOR_P99 = 100
_ENOUGH_FOR_CLAIMS = 10  # requests of a point; with fewer, a slow one decides where a knee or a tail is
_SAME_COUNT = 0.01  # difference of usage and events that is not worth a word


_Check = Callable[[Sequence[Point]], str | None]


def observations(summary: Summary) -> list[str]:
    """What the run shows, as plain sentences; per backend where there are several. A load names its task."""
    found = [failures(summary), *unfinished(summary)]
    by_backend = curves(summary)
    for points in by_backend.values():
        prefix = f"{points[0].backend}: " if len(summary.backends) > 1 else ""
        found += [prefix + line for line in _of_backend(points)]
    return [*found, *short_replies(summary), *_of_run(summary.points), *validity_lines(summary)]


def _of_backend(points: Sequence[Point]) -> list[str]:
    """Claims about the load only from points that came to their end, facts from all."""
    whole = [point for point in points if not point.interrupted]
    claims: tuple[_Check, ...] = (scaling, knee, tail)
    facts: tuple[_Check, ...] = (goodput, outages, stops, warmup, lengths, usage, server_side, preemptions)
    lines = [check(whole) for check in claims] + [check(points) for check in facts] + [reached(whole)]
    return [line for line in lines if line is not None]


def _of_run(points: Sequence[Point]) -> list[str]:
    return [line for check in (token_sources, small_samples) if (line := check(points)) is not None]


def failures(summary: Summary) -> str:
    """How many requests failed, of which classes and where."""
    if summary.requests == 0:
        return "No request has ended."
    if summary.failed == 0 and summary.partial:
        return f"None of the {summary.requests} requests that ended has failed."
    if summary.failed == 0:
        return f"All {summary.requests} requests succeeded."
    places = [
        f"{point.backend} {point.load_name}: {_counts(point.failures)}" for point in summary.points if point.failed
    ]
    share = percent(summary.error_rate)
    return f"{summary.failed} of {summary.requests} requests failed ({share}): {'; '.join(places)}."


def unfinished(summary: Summary) -> list[str]:
    """Points that a run cut short did not come to."""
    return [f"Not started: {', '.join(summary.not_started)}."] if summary.not_started else []


def scaling(points: Sequence[Point]) -> str | None:
    """Throughput at the highest load against that at the lowest."""
    if len(points) < 2:
        return None
    best = max(points, key=lambda point: point.output_tokens_per_s or 0.0)
    gain = speedup(points[-1], points[0])
    if gain is None:
        return None
    line = f"{points[-1].load_name} gives {gain:.2f} x the tokens per second of {points[0].load_name}"
    if best is points[-1]:
        return f"{line}: {number(best.output_tokens_per_s)} tok/s, the highest of the run."
    return f"{line}; the highest is {number(best.output_tokens_per_s)} tok/s at {best.load_name}."


def knee(points: Sequence[Point]) -> str | None:
    """Where more load stops to pay; silent with fewer than three points that have enough requests."""
    known = [point for point in _telling(points) if point.output_tokens_per_s]
    if len(known) < 3:
        return None
    found = find_knee(known)
    if found is None:
        grown = elasticity(known[-2], known[-1])
        assert grown is not None  # both have a throughput
        return f"No knee up to {known[-1].load_name}: throughput still follows the load there (power {grown:.2f})."
    more = speedup(found.next, found.at)
    assert more is not None
    waits = _ratio(found.next.e2e_ms.p50, found.at.e2e_ms.p50)
    cost = f", median E2E {waits:.2f} x as long" if waits is not None else ""
    step = f"from there to {found.next.load_name} throughput is {more:.2f} x{cost}"
    return f"Knee at {found.at.load_name}: {step}."


def tail(points: Sequence[Point]) -> str | None:
    """How far the slow requests lie from the median, at the worst point."""
    enough = _telling(points)
    ratios = [(ratio, point) for point in enough if (ratio := _ratio(point.e2e_ms.p95, point.e2e_ms.p50)) is not None]
    if not ratios:
        return None
    worst, point = max(ratios, key=lambda item: item[0])
    if worst < _LONG_TAIL:
        return f"Tail: p95 E2E is at most {worst:.2f} x the median (at {point.load_name})."
    figures = f"{number(point.e2e_ms.p95)} against {number(point.e2e_ms.p50)} ms"
    return f"Long tail: at {point.load_name} p95 E2E is {worst:.2f} x the median ({figures})."


def _telling(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.requests >= _ENOUGH_FOR_CLAIMS]


def goodput(points: Sequence[Point]) -> str | None:
    """The share of requests within the limits, point by point."""
    shares = [f"{p.load_name} {_share(p.goodput)}" for p in points if p.goodput is not None]
    if not shares:
        return None
    limits = next(p.goodput.slos for p in points if p.goodput is not None)
    names = ", ".join(f"{name} {value:g}{'' if name == 'rtf' else ' s'}" for name, value in limits.items())
    return f"Requests within {names}: {', '.join(shares)}."


def _share(found: Goodput) -> str:
    return f"{percent(found.share)} ({percent(found.interval.low)} to {percent(found.interval.high)})"


def outages(points: Sequence[Point]) -> str | None:
    """Times in which the server was away; they are in no steady figure."""
    found = [f"{p.load_name} {o.end_s - o.start_s:.2f} s at {o.start_s:.1f} s" for p in points for o in p.outages]
    return f"The server was away: {', '.join(found)}; no request was sent meanwhile." if found else None


def stops(points: Sequence[Point]) -> str | None:
    """Points that a rule ended."""
    found = [f"{point.load_name} {point.stopped}" for point in points if point.stopped is not None]
    return f"Ended by rule: {'; '.join(found)}." if found else None


def usage(points: Sequence[Point]) -> str | None:
    """Where the server's count of tokens and the number of events differ by more than 1 %."""
    differ = [p for p in points if p.usage_over_events is not None and abs(p.usage_over_events) > _SAME_COUNT]
    if not differ:
        return None
    worst = max(differ, key=lambda point: abs(point.usage_over_events or 0.0))
    found = f"{worst.tokens_per_event:.3g} tokens per event at {worst.load_name}"
    return f"Usage and events differ: {found}; gaps between tokens inside an event are estimates."


def _has_gauge(view: ServerView) -> bool:
    return any(value is not None for value in (view.running_max, view.waiting_max, view.kv_used_max))


def server_side(points: Sequence[Point]) -> str | None:
    """The server's own figures, where it publishes them and was looked at often enough while requests were out."""
    views = [(p.load_name, p.server) for p in points if p.server is not None]
    seen = [(name, view) for name, view in views if view.num_samples >= FEWEST_LOOKS and _has_gauge(view)]
    if not seen:
        return None
    found = [
        f"{name} {number(view.running_max)} / {number(view.waiting_max)} / {percent(view.kv_used_max)}"
        for name, view in seen
    ]
    return f"The server says, at most (running / waiting / KV cache used): {'; '.join(found)}."


def preemptions(points: Sequence[Point]) -> str | None:
    """Where the server took requests out again, whose work up to there was lost."""
    found = [f"{p.load_name} {p.server.preemptions:.0f} times" for p in points if p.server and p.server.preemptions]
    return f"The server preempted requests, its KV cache being full: {', '.join(found)}." if found else None


def warmup(points: Sequence[Point]) -> str | None:
    """Failures before the measurement, which no figure shows."""
    failed, total = (
        sum(counts) for counts in zip(*((p.warmup_failed, p.warmup_requests) for p in points), strict=True)
    )
    return f"{failed} of {total} warm-up requests failed; they count in no figure." if failed else None


def reached(points: Sequence[Point]) -> str | None:
    """Points at which fewer requests were in flight than asked for."""
    short = [f"{point.load_name}: {figure}" for point in points if (figure := _shortfall(point)) is not None]
    return f"Fewer requests in flight than asked for: {', '.join(short)}." if short else None


def _shortfall(point: Point) -> str | None:
    if point.rate_per_s is not None:  # of an open loop the concurrency is only a limit
        return None
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
    """Backends whose replies are shorter than the fixed length that was asked for; lengths that are drawn have none."""
    settings = summary.settings
    asked = settings.get("max_tokens")
    is_drawn = settings.get("output_tokens") is not None or settings.get("trace") is not None
    if not settings.get("ignore_eos") or not isinstance(asked, int) or is_drawn:
        return []
    lines = []
    for name, points in curves(summary).items():
        num_good = sum(point.requests - point.failed for point in points)
        tokens = sum(point.output_tokens or 0 for point in points)
        if 0 < tokens < num_good * asked:
            mean = f"{tokens / num_good:.1f}"
            lines.append(f"{name}: replies are {mean} tokens long on average, not {asked}: {_who_ended(points)}.")
    return lines


def _who_ended(points: Sequence[Point]) -> str:
    if {reason for point in points for reason in point.finish_reasons} == {"length"}:
        return "the server ended them (finish_reason length), as where prompt and answer fill its context"
    return "the model ended them"


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
