"""How far the figures of a point would move with other requests: bootstrap intervals, by name of the figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum, sqrt
from typing import TYPE_CHECKING

from ming_eval.metrics import latency
from ming_eval.metrics.intervals import student_t_quantile
from ming_eval.metrics.stats import Interval
from ming_eval.types import RequestRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUM_RESAMPLES = 1_000
_DRAWS_AT_ONCE = 1_000_000  # indices held in memory at a time
_FEWEST = 8  # with fewer requests a bootstrap interval says nothing

_LATENCIES: dict[str, Callable[[RequestRecord], float | None]] = {
    "ttft_ms": latency.ttft_s,
    "tpot_ms": latency.tpot_s,
    "e2e_ms": latency.e2e_s,
}


def intervals(
    good: Sequence[RequestRecord], closed_loop_tokens_per_s: float | None, *, seed: int
) -> dict[str, Interval]:
    """95 % percentile-bootstrap intervals over requests: mean, median, p95 and p99 of TTFT, TPOT and E2E.

    Also of `output_tokens_per_s` where the throughput of a closed loop is given: there it is concurrency x tokens of a
    request / time of a request, so that it moves with their ratio. Nothing for fewer than 8 requests.
    """
    found: dict[str, Interval] = {}
    for name, read in _LATENCIES.items():
        values = [1000 * value for record in good if (value := read(record)) is not None]
        if len(values) >= _FEWEST:
            found |= {f"{name}.{figure}": interval for figure, interval in _of_latency(values, seed).items()}
    counts = [record.num_output_tokens for record in good]
    if closed_loop_tokens_per_s is not None and len(good) >= _FEWEST and None not in counts:
        found["output_tokens_per_s"] = _of_throughput(good, closed_loop_tokens_per_s, seed)
    return found


def over_passes(values: Sequence[float | None]) -> Interval | None:
    """95 % interval of Student's t for the mean of a figure over passes; None with fewer than two, or one unknown."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return None
    centre = fsum(known) / len(known)
    error = sqrt(fsum((value - centre) ** 2 for value in known) / (len(known) - 1) / len(known))
    half = student_t_quantile(0.975, len(known) - 1) * error
    return Interval(round(max(0.0, centre - half), 4), round(centre + half, 4))  # rates and times are never negative


def _of_latency(values: Sequence[float], seed: int) -> dict[str, Interval]:
    import numpy as np  # costs a tenth of a second that a run of a few requests need not pay

    pool = np.asarray(values)
    rows = [_figures(pool[draw]) for draw in _draws(len(pool), seed)]
    return dict(zip(("mean", "p50", "p95", "p99"), map(_interval, np.concatenate(rows, axis=1)), strict=True))


def _figures(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """[resamples, requests] -> [4, resamples]."""
    import numpy as np

    return np.stack([samples.mean(axis=1), *np.percentile(samples, [50, 95, 99], axis=1)])


def _of_throughput(good: Sequence[RequestRecord], tokens_per_s: float, seed: int) -> Interval:
    import numpy as np

    tokens = np.asarray([record.num_output_tokens or 0 for record in good], dtype=np.float64)
    times_s = np.asarray([record.done_s - record.sent_s for record in good])
    ratios = [tokens[draw].sum(axis=1) / times_s[draw].sum(axis=1) for draw in _draws(len(good), seed)]
    return _interval(tokens_per_s * np.concatenate(ratios) * times_s.sum() / tokens.sum())


def _draws(count: int, seed: int) -> list[NDArray[np.int64]]:
    import numpy as np

    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // count)
    sizes = [min(step, _NUM_RESAMPLES - start) for start in range(0, _NUM_RESAMPLES, step)]
    return [rng.integers(count, size=(size, count)) for size in sizes]


def _interval(results: NDArray[np.float64]) -> Interval:
    import numpy as np

    low, high = np.quantile(results, [0.025, 0.975])
    return Interval(round(float(low), 4), round(float(high), 4))
