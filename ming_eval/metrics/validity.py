"""Can the client be believed? What it saw of itself during a point, and the verdict that follows.

The limits are absolute: a client that is late by 5 ms is wrong by 5 ms, however slow the server is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import sqrt
from statistics import median

from ming_eval.metrics import latency, stats
from ming_eval.metrics.prometheus import ServerView
from ming_eval.types import ClientHealth, RequestRecord

_FEWEST_FOR_DRIFT = 16  # requests in each half
_DRIFT_Z = 3.0


class Trust(StrEnum):
    """In rising order of doubt."""

    VALID = "valid"
    SUSPECT = "suspect"
    INVALID = "invalid"


_MOST_OF_OTHERS = 1.1  # prompt tokens that the server looked up over those sent here
_TEMPLATE_TOKENS = 64  # a common beginning of prompts up to this length is taken for that of a chat template
_BLOCK_TOKENS = 16  # caches keep whole blocks, vLLM's of this length, and never the last token of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """What the client saw of itself while a point was measured; None where it could not see it.

    `cpu_share` is of one core, `connection_reuse` the share of requests that found an open connection, `cached_share`
    the share of prompt tokens behind a chat template that the server says it had in its cache; None also where prompts
    are too short to tell. `ttft_drift` is the median TTFT of the second half over that of the first where the halves
    differ beyond chance; well below 1, a cache has warmed up, or the server. `clock_drift_ms` is the kernel's clock
    against the client's, over the point.
    """

    verdict: Trust
    reasons: tuple[str, ...]
    cpu_share: float | None
    loop_lag_p99_ms: float | None
    receive_lag_p99_ms: float | None
    num_receive_stamps: int
    clock_drift_ms: float | None
    send_lag_p99_ms: float | None
    requested_concurrency: int | None
    achieved_concurrency_mean: float | None
    achieved_concurrency_max: int | None
    connection_reuse: float | None
    gc_pause_max_ms: float | None
    gc_pauses_ms: float | None
    tokens_per_event: float | None
    cached_share: float | None
    ttft_drift: float | None


@dataclass(frozen=True, slots=True)
class RunValidity:
    """The worst verdict over the points of a run, and why; each reason names its point."""

    verdict: Trust
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Limit:
    """From `suspect` on a value is doubted, from `invalid` on it is not believed. A falling limit is a minimum."""

    what: str
    read: Callable[[Validity], float | None]
    suspect: float
    invalid: float
    unit: str
    falling: bool = False
    hint: str = ""

    def judge(self, validity: Validity) -> tuple[Trust, str] | None:
        value = self.read(validity)
        if value is None or not self._passes(value, self.suspect):
            return None
        trust = Trust.INVALID if self._passes(value, self.invalid) else Trust.SUSPECT
        limit = self.invalid if trust is Trust.INVALID else self.suspect
        side = "below" if self.falling else "above"
        return trust, f"{self.what} {value:.3g}{self.unit}, {side} {limit:g}{self.unit}{self.hint}"

    def _passes(self, value: float, limit: float) -> bool:
        return value < limit if self.falling else value > limit


def _shortfall(validity: Validity) -> float | None:
    mean, requested = validity.achieved_concurrency_mean, validity.requested_concurrency
    return None if mean is None or requested is None else mean / requested


_OF_KEPT_CONNECTIONS = _Limit(
    "requests on an open connection", lambda v: v.connection_reuse, 0.5, -1.0, "", falling=True
)
_LIMITS_OF_THE_CLIENT = (
    _Limit("client CPU", lambda v: v.cpu_share, 0.8, 0.95, " of a core", hint=": share the load with --workers"),
    _Limit("event-loop lag p99", lambda v: v.loop_lag_p99_ms, 5.0, 20.0, " ms"),
    _Limit("receive lag p99", lambda v: v.receive_lag_p99_ms, 3.0, 10.0, " ms"),
    _Limit("send lag p99", lambda v: v.send_lag_p99_ms, 5.0, 20.0, " ms"),
    _Limit("garbage collector pause of", lambda v: v.gc_pause_max_ms, 10.0, 50.0, " ms"),
    _Limit("concurrency achieved / requested", _shortfall, 0.98, 0.9, "", falling=True),
    _OF_KEPT_CONNECTIONS,
    _Limit("clock drift", lambda v: abs(v.clock_drift_ms or 0.0), 1.0, float("inf"), " ms"),
)
_LIMITS = (
    *_LIMITS_OF_THE_CLIENT,
    _Limit(
        "share of prompt tokens from a warm prefix cache",
        lambda v: v.cached_share,
        0.2,
        float("inf"),
        "",
        hint=": where the server was asked the same before, restart it or take another --seed",
    ),
    _Limit("TTFT late in the point / early in it", lambda v: v.ttft_drift, 0.7, -1.0, "", falling=True),
)


def assess(
    measured: Sequence[RequestRecord],
    healths: Sequence[ClientHealth],
    *,
    requested: int | None,
    achieved: stats.Achieved | None,
    are_prompts_unique: bool,
    keeps_connections: bool,
    server: ServerView | None = None,
    have_template: bool = True,
) -> Validity | None:
    """The validity of one point; None where the client left no trace of itself.

    `healths` are those of its phases, over all processes: the worst of them counts. `requested` is the concurrency of a
    closed loop, None elsewhere. A warm prefix cache is a reason for doubt where no prompt came twice, a connection for
    each request where the dialect `keeps_connections`: elsewhere that is meant so, and it is open before it is used.
    `server` has what the server's own counters say of prefix hits, for servers whose usage does not. Prompts that
    `have_template` may rightly share the beginning that a chat template gives them; raw ones share nothing.
    """
    if not healths:
        return None
    drifts_s = [health.clock_drift_s for health in healths if health.clock_drift_s is not None]
    send_lags_s = [lag for record in measured if (lag := latency.send_lag_s(record)) is not None]
    found = Validity(
        verdict=Trust.VALID,
        reasons=(),
        cpu_share=_worst(health.cpu_s / health.wall_s if health.wall_s > 0 else None for health in healths),
        loop_lag_p99_ms=_ms(_worst(health.loop_lag_s for health in healths)),
        receive_lag_p99_ms=_ms(_worst(health.receive_lag_s for health in healths)),
        num_receive_stamps=sum(health.num_receive_stamps for health in healths),
        clock_drift_ms=_ms(max(drifts_s, key=abs, default=None)),
        send_lag_p99_ms=_ms(stats.percentile(send_lags_s, 99)),
        requested_concurrency=requested,
        # Where every slot sends once there is no time at which all should be busy.
        achieved_concurrency_mean=achieved.mean if achieved and requested and len(measured) > requested else None,
        achieved_concurrency_max=achieved.max if achieved else None,
        connection_reuse=_share(record.reused_connection for record in measured),
        gc_pause_max_ms=_ms(_worst(health.gc_pause_max_s for health in healths)),
        gc_pauses_ms=_ms(sum(health.gc_pauses_s for health in healths)),
        tokens_per_event=stats.tokens_per_event(measured),
        cached_share=_cached_share(measured, server, _TEMPLATE_TOKENS if have_template else 0),
        ttft_drift=_ttft_drift(measured),
    )
    limits = _LIMITS if are_prompts_unique else _LIMITS_OF_THE_CLIENT
    return _with_verdict(found, [each for each in limits if keeps_connections or each is not _OF_KEPT_CONNECTIONS])


def worst_of(validities: Iterable[tuple[str, Validity]]) -> RunValidity | None:
    """The verdict over named points; None where there is none."""
    named = list(validities)
    if not named:
        return None
    order = list(Trust)
    verdict = max((validity.verdict for _, validity in named), key=order.index)
    reasons = tuple(f"{name}: {reason}" for name, validity in named for reason in validity.reasons)
    return RunValidity(verdict, reasons)


def _with_verdict(found: Validity, limits: Sequence[_Limit]) -> Validity:
    judged = [result for limit in limits if (result := limit.judge(found)) is not None]
    order = list(Trust)
    verdict = max((trust for trust, _ in judged), key=order.index, default=Trust.VALID)
    return replace(found, verdict=verdict, reasons=tuple(reason for _, reason in judged))


def _cached_share(measured: Sequence[RequestRecord], server: ServerView | None, longest_template: int) -> float | None:
    """Share of the prompt tokens that came from a cache, over the requests for which the server says so.

    What all requests have from it is left out of both sides, up to `longest_template` tokens, which they rightly share;
    so are later turns of a conversation, which rightly find the turns before them. None where at most a block a
    request is left: of that a cache gives nothing or all that was taken for the template, so that cold and warm look
    alike. Warm-up requests tell no more of the template: who was asked these prompts before was asked theirs as well.

    Usage goes first. vLLM says it there only when started so, and always in its counters, which see all requests as
    one: the longest template is then taken off each of them. Where they saw far more prompt tokens than were sent here,
    the hits may be anybody's: somebody else asks the server too, or it looked up requests again that it had preempted.
    """
    known = [
        (record.num_cached_tokens, record.num_prompt_tokens)
        for record in measured
        if record.num_cached_tokens is not None and record.num_prompt_tokens and (record.turn or 1) == 1
    ]
    if known:
        template = min(longest_template, *(cached for cached, _ in known))
        return _behind_template(sum(cached for cached, _ in known), [total for _, total in known], template)
    totals = [record.num_prompt_tokens for record in measured if record.ok and record.num_prompt_tokens]
    if not totals or server is None or server.prefix_hit_share is None or server.prefix_queries is None:
        return None
    sent = sum(totals) / len(totals) * len(measured)  # failed requests have no usage
    if server.prefix_queries > _MOST_OF_OTHERS * sent or any((record.turn or 1) > 1 for record in measured):
        return None
    return _behind_template(server.prefix_hit_share * sum(totals), totals, longest_template)


def _behind_template(cached: float, totals: Sequence[int], template: int) -> float | None:
    """Share of the prompt tokens behind a template; None where they are too few to tell."""
    num = len(totals)
    rest = sum(totals) - template * num
    return max(cached - template * num, 0) / rest if rest > _BLOCK_TOKENS * num else None


def _ttft_drift(measured: Sequence[RequestRecord]) -> float | None:
    """Median TTFT of the second half over that of the first; None where a rank test (z = 3) sees no difference.

    The first request of each slot is left out: they come all at once.
    """
    slots = {record.slot for record in measured}
    later = sorted(measured, key=lambda record: record.sent_s)[len(slots) :]
    ttfts_s = [ttft_s for record in later if (ttft_s := latency.ttft_s(record)) is not None]
    half = len(ttfts_s) // 2
    first, second = ttfts_s[:half], ttfts_s[half:]
    if half < _FEWEST_FOR_DRIFT or abs(_rank_z(first, second)) < _DRIFT_Z:
        return None
    return median(second) / median(first) if median(first) > 0 else None


def _rank_z(first: Sequence[float], second: Sequence[float]) -> float:
    """Mann-Whitney's z (normal approximation, no tie correction): positive where `second` tends to be larger."""
    ranked = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank_sum = sum(rank for rank, (_, side) in enumerate(ranked, start=1) if side == 1)
    n, m = len(second), len(first)
    return (rank_sum - n * (n + m + 1) / 2) / sqrt(n * m * (n + m + 1) / 12)


def _share(flags: Iterable[bool]) -> float | None:
    known = list(flags)
    return sum(known) / len(known) if known else None


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(1000 * value_s, 4)
