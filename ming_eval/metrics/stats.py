"""Many requests -> a few numbers: percentiles, intervals, throughput, goodput. None where there is no value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, sqrt
from typing import TYPE_CHECKING

from ming_eval.errors import UsageError
from ming_eval.metrics import audio, latency
from ming_eval.types import RequestRecord, TokenSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Z_95 = 1.959963984540054
_RESAMPLES_AT_ONCE = 2_000_000  # drawn values held in memory at a time


# --- Values ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Summary:
    """A pool of values, in their own unit."""

    mean: float
    p50: float
    p95: float
    p99: float
    min: float
    max: float
    count: int


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of a confidence interval."""

    low: float
    high: float


def percentile(values: Iterable[float], q: float) -> float | None:
    """The q-th percentile (0 to 100) with linear interpolation between the two nearest values."""
    ordered = sorted(values)
    return _percentile(ordered, q) if ordered else None


def summarise(values: Iterable[float | None]) -> Summary | None:
    """Figures over the values that exist; None when none does."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    return Summary(
        mean=fsum(ordered) / len(ordered),
        p50=_percentile(ordered, 50),
        p95=_percentile(ordered, 95),
        p99=_percentile(ordered, 99),
        min=ordered[0],
        max=ordered[-1],
        count=len(ordered),
    )


def _percentile(ordered: Sequence[float], q: float) -> float:
    place = (len(ordered) - 1) * q / 100
    low, high = ordered[floor(place)], ordered[ceil(place)]
    return low + (high - low) * (place - floor(place))


def wilson(successes: int, n: int) -> Interval | None:
    """95 % Wilson score interval of a share; None without trials."""
    if n == 0:
        return None
    share, z2 = successes / n, _Z_95 * _Z_95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    *,
    seed: int,
    num_resamples: int = 2_000,
    level: float = 0.95,
) -> Interval | None:
    """Percentile bootstrap interval of a statistic of `values`; None with fewer than two of them.

    `statistic` reduces the last axis of [resamples, values]; unset, it is the mean.
    """
    import numpy as np  # costs a tenth of a second that a short run need not pay

    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    pool = np.asarray(values, dtype=np.float64)
    reduce = statistic or (lambda draws: draws.mean(axis=-1))
    step = max(1, _RESAMPLES_AT_ONCE // len(pool))
    sizes = [min(step, num_resamples - start) for start in range(0, num_resamples, step)]
    results = np.concatenate([reduce(rng.choice(pool, size=(size, len(pool)))) for size in sizes])
    low, high = np.quantile(results, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


# --- Throughput --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Throughput:
    """Good requests and their output tokens over a span of time; tokens are None where any count is unknown."""

    start_s: float
    end_s: float
    num_requests: int
    num_tokens: int | None

    @property
    def wall_s(self) -> float:
        """Length of the span."""
        return self.end_s - self.start_s

    @property
    def requests_per_s(self) -> float | None:
        """Completed requests per second."""
        return self.num_requests / self.wall_s if self.wall_s > 0 else None

    @property
    def output_tokens_per_s(self) -> float | None:
        """Output tokens per second."""
        return self.num_tokens / self.wall_s if self.num_tokens is not None and self.wall_s > 0 else None


@dataclass(frozen=True, slots=True)
class Steady:
    """Throughput while every slot was busy, or the reason why there is no such figure."""

    throughput: Throughput | None
    reason: str | None = None


def throughput(records: Sequence[RequestRecord]) -> Throughput | None:
    """Whole run: from the first t0 to the end of the last request, good or failed; only good ones are counted."""
    if not records:
        return None
    start_s = min(latency.t0_s(record) for record in records)
    end_s = max(record.done_s for record in records)
    good = [record for record in records if record.ok]
    tokens = [record.num_output_tokens for record in good]
    known = [count for count in tokens if count is not None]
    return Throughput(start_s, end_s, len(good), sum(known) if len(known) == len(tokens) else None)


def steady(slots: Sequence[Sequence[RequestRecord]]) -> Steady:
    """Throughput of a closed loop's steady window; `slots` holds each slot's requests in order.

    The window opens when every slot has finished one request and closes when the first slot has no more to send.
    Requests count where they end, tokens where they arrive. There is no figure from a window shorter than twice
    the mean E2E: a few requests more or less would decide it.
    """
    if not slots or any(not slot for slot in slots):
        return Steady(None, "not every slot finished a request")
    start_s = max(slot[0].done_s for slot in slots)
    end_s = min(slot[-1].done_s for slot in slots)
    good = [record for slot in slots for record in slot if record.ok]
    mean_e2e = summarise(latency.e2e_s(record) for record in good)
    if mean_e2e is None:
        return Steady(None, "no request succeeded")
    if end_s - start_s < 2 * mean_e2e.mean:
        span_s = max(0.0, end_s - start_s)
        return Steady(None, f"the window of {span_s:.3g} s is shorter than 2 x mean E2E ({mean_e2e.mean:.3g} s)")
    return Steady(_throughput_within(good, start_s, end_s))


def _throughput_within(good: Sequence[RequestRecord], start_s: float, end_s: float) -> Throughput:
    num_requests = sum(start_s < record.done_s <= end_s for record in good)
    num_tokens = sum(
        tokens
        for record in good
        for time_s, tokens in zip(record.output_times_s, record.output_event_tokens, strict=True)
        if start_s < time_s <= end_s
    )
    is_counted = all(record.num_output_tokens is not None for record in good)
    return Throughput(start_s, end_s, num_requests, num_tokens if is_counted else None)


@dataclass(frozen=True, slots=True)
class Achieved:
    """Requests under way at once, as the client sees it."""

    mean: float
    max: int


def achieved_concurrency(records: Sequence[RequestRecord]) -> Achieved | None:
    """Time-weighted mean and maximum from the first request sent to the last one sent: the drain-out is no fault."""
    if not records:
        return None
    start_s, end_s = min(record.sent_s for record in records), max(record.sent_s for record in records)
    edges = sorted([(record.done_s, -1) for record in records] + [(record.sent_s, 1) for record in records])
    running, most, area, before_s = 0, 0, 0.0, start_s
    for time_s, change in edges:  # at equal times ends come first: a slot is free before it is filled again
        area += running * max(0.0, min(time_s, end_s) - before_s)
        before_s = max(before_s, min(time_s, end_s))
        running += change
        most = max(most, running)
    return Achieved(area / (end_s - start_s) if end_s > start_s else float(most), most)


def tokens_per_event(records: Iterable[RequestRecord]) -> float | None:
    """Output tokens per output-bearing event over good requests with a known count."""
    counted = [record for record in records if record.ok and record.num_output_tokens is not None]
    num_events = sum(len(record.output_times_s) for record in counted)
    return sum(record.num_output_tokens or 0 for record in counted) / num_events if num_events else None


def usage_over_events(records: Iterable[RequestRecord]) -> float | None:
    """How many more tokens usage counts than there were events with output, as a share; None without usage."""
    counted = [record for record in records if record.ok and record.token_source is TokenSource.USAGE]
    num_events = sum(len(record.output_times_s) for record in counted)
    return sum(record.num_output_tokens or 0 for record in counted) / num_events - 1 if num_events else None


# --- Goodput -----------------------------------------------------------------------------------------------------


def rtf(record: RequestRecord) -> float | None:
    """Real-time factor of a request: (last audio - t0) / seconds of audio."""
    return audio.rtf(audio.stored_pieces(record), latency.t0_s(record))


LIMITS: dict[str, Callable[[RequestRecord], float | None]] = {
    "ttft": latency.ttft_s,
    "ttfc": latency.ttfc_s,
    "ttfa": latency.ttfa_s,
    "tpot": latency.tpot_s,
    "e2e": latency.e2e_s,
    "rtf": rtf,
}


@dataclass(frozen=True, slots=True)
class Goodput:
    """Share of requests that met every limit."""

    num_good: int
    num_requests: int
    share: float
    interval: Interval


def goodput(records: Sequence[RequestRecord], limits_s: Mapping[str, float]) -> Goodput | None:
    """Requests within all `limits_s` (names of `LIMITS`, seconds or a factor) over all issued; failures are misses.

    A reply of one event has no TPOT and meets any; any other value that does not exist is a miss.

    Raises:
        UsageError: a limit has an unknown name.
    """
    if unknown := limits_s.keys() - LIMITS.keys():
        raise UsageError(f"unknown limit {sorted(unknown)[0]!r}: choose from {', '.join(LIMITS)}")
    num_good = sum(record.ok and all(_meets(record, *pair) for pair in limits_s.items()) for record in records)
    interval = wilson(num_good, len(records))
    return None if interval is None else Goodput(num_good, len(records), num_good / len(records), interval)


def _meets(record: RequestRecord, name: str, limit_s: float) -> bool:
    value = LIMITS[name](record)
    return name == "tpot" if value is None else value <= limit_s
