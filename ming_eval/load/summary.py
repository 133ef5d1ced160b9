"""Records -> the summary of a run; a function of what is stored, so that a run cut short can be summed up later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from ming_eval.errors import DataError
from ming_eval.load.plan import LoadPlan
from ming_eval.manifest import Manifest
from ming_eval.metrics import latency, stats
from ming_eval.results import Achieved, Distribution, Point, Steady, Summary, Verdict
from ming_eval.types import RequestRecord, Task, TokenSource

INTERRUPTED = Verdict("interrupted", 130, "interrupted before the end")
KILLED = Verdict("killed", 130, "killed before the end")


def summarise_run(
    manifest: Manifest, records: Sequence[RequestRecord], *, finished: str | None, cut_short: Verdict | None
) -> Summary:
    """The summary of a sweep, in the order of its points; `cut_short` is why it did not get to its end.

    Raises:
        DataError: the manifest is not that of a sweep.
    """
    plan = read_plan(manifest)
    points = [
        summarise_point(mine, backend.name, concurrency, plan)
        for backend in manifest.backends
        for concurrency in plan.concurrencies
        if (mine := [r for r in records if r.backend == backend.name and r.concurrency == concurrency])
    ]
    requests, failed = sum(point.requests for point in points), sum(point.failed for point in points)
    error_rate = failed / requests if requests else None
    return Summary(
        run=manifest.run,
        command=manifest.command,
        started=manifest.started,
        finished=finished,
        seed=manifest.seed,
        partial=cut_short is not None,
        verdict=cut_short or _judge(error_rate, plan.max_error_rate),
        max_error_rate=plan.max_error_rate,
        settings=manifest.settings,
        backends=manifest.backends,
        requests=requests,
        failed=failed,
        error_rate=error_rate,
        points=tuple(points),
    )


def read_plan(manifest: Manifest) -> LoadPlan:
    """The plan that a manifest holds.

    Raises:
        DataError: it holds none.
    """
    try:
        return msgspec.convert(manifest.settings, LoadPlan)
    except msgspec.ValidationError as exc:
        raise DataError(f"run {manifest.run} holds no sweep: {exc}") from exc


def summarise_point(records: Sequence[RequestRecord], backend: str, concurrency: int, plan: LoadPlan) -> Point:
    """All figures of one backend at one concurrency; `records` are those of this point, warm-up included."""
    warmup = [record for record in records if record.warmup]
    measured = sorted((record for record in records if not record.warmup), key=lambda record: record.sent_s)
    good = [record for record in measured if record.ok]
    failures = Counter(record.failure.value for record in measured if record.failure is not None)
    whole = stats.throughput(measured)
    planned = plan.num_requests(concurrency)
    steady = stats.steady(_by_slot(measured, min(concurrency, planned)))
    return Point(
        backend=backend,
        task=records[0].task.value if records else Task.T2T.value,
        concurrency=concurrency,
        planned=planned,
        requests=len(measured),
        failed=len(measured) - len(good),
        failures=dict(failures),
        error_rate=(len(measured) - len(good)) / len(measured) if measured else None,
        warmup_requests=len(warmup),
        warmup_failed=sum(not record.ok for record in warmup),
        started_s=whole.start_s if whole else None,
        wall_s=whole.wall_s if whole else None,
        prompt_tokens=_total(record.num_prompt_tokens for record in good),
        cached_tokens=_total(record.num_cached_tokens for record in good),
        output_tokens=whole.num_tokens if whole else None,
        token_source=_token_source(good),
        tokens_per_event=stats.tokens_per_event(good),
        finish_reasons=dict(Counter(record.finish_reason for record in good if record.finish_reason is not None)),
        requests_per_s=whole.requests_per_s if whole else None,
        output_tokens_per_s=whole.output_tokens_per_s if whole else None,
        steady=_steady_figures(steady),
        steady_reason=steady.reason,
        achieved_concurrency=_achieved(measured, concurrency),
        reconnections=sum(not record.reused_connection for record in measured),
        ttft_ms=distribution_ms(latency.ttft_s(record) for record in good),
        ttfc_ms=distribution_ms(latency.ttfc_s(record) for record in good),
        tpot_ms=distribution_ms(latency.tpot_s(record) for record in good),
        itl_ms=distribution_ms(gap for record in good for gap in latency.itl_samples_s(record)),
        icl_ms=distribution_ms(gap for record in good for gap in latency.icl_samples_s(record)),
        e2e_ms=distribution_ms(latency.e2e_s(record) for record in good),
        send_lag_ms=distribution_ms(latency.send_lag_s(record) for record in measured),
        stream_end_lag_ms=distribution_ms(latency.stream_end_lag_s(record) for record in good),
    )


def distribution_ms(values_s: Iterable[float | None]) -> Distribution:
    """Seconds to a distribution in milliseconds."""
    found = stats.summarise(values_s)
    if found is None:
        return Distribution()
    return Distribution(
        count=found.count,
        mean=_ms(found.mean),
        p50=_ms(found.p50),
        p95=_ms(found.p95),
        p99=_ms(found.p99),
        min=_ms(found.min),
        max=_ms(found.max),
    )


def _ms(value_s: float) -> float:
    return round(1000 * value_s, 4)


def _judge(error_rate: float | None, max_error_rate: float) -> Verdict:
    if error_rate is None:
        return Verdict("errors", 1, "no request has ended")
    if error_rate > max_error_rate:
        return Verdict(
            "errors", 1, f"{100 * error_rate:.3g} % of the requests failed, {100 * max_error_rate:.3g} % may"
        )
    return Verdict("complete", 0)


def _by_slot(measured: Sequence[RequestRecord], num_slots: int) -> list[list[RequestRecord]]:
    slots: list[list[RequestRecord]] = [[] for _ in range(num_slots)]
    for record in measured:
        if record.slot is not None:
            slots[record.slot].append(record)
    return slots


def _steady_figures(steady: stats.Steady) -> Steady | None:
    window = steady.throughput
    if window is None or window.requests_per_s is None:
        return None
    return Steady(window.wall_s, window.requests_per_s, window.output_tokens_per_s)


def _achieved(measured: Sequence[RequestRecord], concurrency: int) -> Achieved:
    found = stats.achieved_concurrency(measured)
    if found is None:
        return Achieved(None, 0)
    # A slot that sends once only has no time at which it should be busy: a mean would be that of the ramp.
    return Achieved(found.mean if len(measured) > concurrency else None, found.max)


def _total(counts: Iterable[int | None]) -> int | None:
    """Their sum, None where one is not known."""
    known = list(counts)
    return None if not known or None in known else sum(count for count in known if count is not None)


def _token_source(good: Sequence[RequestRecord]) -> TokenSource | None:
    """Where the token counts of a point come from; of several sources the least exact."""
    sources = {record.token_source for record in good}
    return next((source for source in reversed(TokenSource) if source in sources), None)
