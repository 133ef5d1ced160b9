"""The figures that are compared, by the names that `summary.json` gives them: `ttft_ms.p99`, `output_tokens_per_s`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from ming_eval.compare.resampling import Array, Draws, LogRatio, log_ratio, pooled_quantiles, ratio_of_sums
from ming_eval.compare.system import Pairs
from ming_eval.errors import UsageError
from ming_eval.metrics import latency, stats
from ming_eval.types import RequestRecord

THROUGHPUT = "output_tokens_per_s"
IN_TABLE = (
    THROUGHPUT,
    "ttft_ms.p50",
    "ttft_ms.p99",
    "tpot_ms.mean",
    "itl_ms.p99",
    "e2e_ms.p50",
    "e2e_ms.p99",
    "ttfa_ms.p50",  # from here on of speech only: where there is none, they are in no table and in no correction
    "ttfa_ms.p99",
    "rtf.mean",
    "rtf.p99",
)

Samples = Callable[[RequestRecord], Sequence[float]]
Draw = Callable[[int], Draws]  # number of requests -> resamples of them


def _single(measure: Callable[[RequestRecord], float | None]) -> Samples:
    return lambda record: [value] if (value := measure(record)) is not None else []


LATENCIES: Mapping[str, Samples] = {
    "ttft_ms": _single(latency.ttft_s),
    "ttfc_ms": _single(latency.ttfc_s),
    "ttfa_ms": _single(latency.ttfa_s),
    "tpot_ms": _single(latency.tpot_s),
    "e2e_ms": _single(latency.e2e_s),
    "itl_ms": latency.itl_samples_s,
    "icl_ms": latency.icl_samples_s,
    "upload_ms": _single(lambda record: record.upload_s if record.ok else None),
    "rtf": _single(stats.rtf),
}
_FACTORS = frozenset({"rtf"})  # without a unit; all others are measured in seconds
STATISTICS: Mapping[str, float | None] = {"mean": None, "p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure of two systems over the same requests; `ratio` is None where it has no meaning."""

    first: float
    second: float
    ratio: LogRatio | None


def check_figure(name: str) -> str:
    """`name`, if there is such a figure.

    Raises:
        UsageError: there is none.
    """
    latency_name, _, statistic = name.partition(".")
    if name != THROUGHPUT and (latency_name not in LATENCIES or statistic not in STATISTICS):
        raise UsageError(
            f"unknown figure {name!r}: choose {THROUGHPUT}, or one of {', '.join(LATENCIES)} "
            f"followed by .{', .'.join(STATISTICS)}"
        )
    return name


def higher_is_better(name: str) -> bool:
    """True for throughput, False for times."""
    return name == THROUGHPUT


def measure(name: str, pairs: Pairs, draw: Draw) -> Measured | None:
    """The figure called `name` of both systems; None where one of them has no value."""
    if name == THROUGHPUT:
        return _throughput(pairs, draw)
    latency_name, _, statistic = name.partition(".")
    samples = LATENCIES[latency_name]
    both = [
        (a, b)
        for pair in zip(pairs.first, pairs.second, strict=True)
        if (a := samples(pair[0])) and (b := samples(pair[1]))
    ]
    if len(both) < 2:
        return None
    firsts, seconds = [a for a, _ in both], [b for _, b in both]
    share = STATISTICS[statistic]
    found = _means(firsts, seconds, draw) if share is None else _quantiles(firsts, seconds, share, draw)
    scale = 1 if latency_name in _FACTORS else 1000
    return Measured(scale * found.first, scale * found.second, found.ratio)


def _means(firsts: Sequence[Sequence[float]], seconds: Sequence[Sequence[float]], draw: Draw) -> Measured:
    draws = draw(len(firsts))
    (a, many_a), (b, many_b) = (
        ratio_of_sums(np.array([sum(mine) for mine in each]), np.array([float(len(mine)) for mine in each]), draws)
        for each in (firsts, seconds)
    )
    return Measured(a, b, log_ratio(a, b, many_a, many_b, draws))


def _quantiles(
    firsts: Sequence[Sequence[float]], seconds: Sequence[Sequence[float]], share: float, draw: Draw
) -> Measured:
    draws = draw(len(firsts))
    a, b = (stats.percentile([value for mine in each for value in mine], 100 * share) for each in (firsts, seconds))
    assert a is not None  # there are samples
    assert b is not None
    (many_a,), (many_b,) = pooled_quantiles(firsts, [share], draws), pooled_quantiles(seconds, [share], draws)
    return Measured(a, b, log_ratio(a, b, many_a, many_b, draws))


# --- Throughput --------------------------------------------------------------------------------------------------


def _throughput(pairs: Pairs, draw: Draw) -> Measured | None:
    """Output tokens over the time that the requests took of the system; failed requests take time and bring none."""
    if len(pairs.first) < 2 or any(r.ok and r.num_output_tokens is None for r in (*pairs.first, *pairs.second)):
        return None
    draws = draw(len(pairs.first))
    (tokens_a, time_a), (tokens_b, time_b) = _work(pairs.first), _work(pairs.second)
    if not (time_a.sum() > 0 and time_b.sum() > 0):
        return None
    a, many_a = ratio_of_sums(tokens_a, time_a, draws)
    b, many_b = ratio_of_sums(tokens_b, time_b, draws)
    return Measured(a, b, log_ratio(a, b, many_a, many_b, draws))


def _work(records: Sequence[RequestRecord]) -> tuple[Array, Array]:
    """Tokens of each request and its share of the system's time.

    In a closed loop that is the time in its slot over the number of slots, so that the drain at the end, when slots
    have run out of work, is in neither system's figure. In an open loop it is the time since the completion before.
    """
    if any(record.intended_s is not None for record in records):
        records = sorted(records, key=lambda record: (record.repeat, record.done_s))
        times = [
            time_s for _, each in groupby(records, key=lambda record: record.repeat) for time_s in _gaps(list(each))
        ]
    else:
        num_slots = min(records[0].concurrency, len(records))
        times = [(record.done_s - record.sent_s) / num_slots for record in records]
    tokens = [float(record.num_output_tokens or 0) if record.ok else 0.0 for record in records]
    return np.array(tokens), np.array(times)


def _gaps(records: Sequence[RequestRecord]) -> list[float]:
    """Seconds between completions in one pass over the points, from the first request that was due."""
    start_s = min(latency.t0_s(record) for record in records)
    return [after - before for before, after in pairwise([start_s, *(record.done_s for record in records)])]
