"""Records -> the summary of a run; a function of what is stored, so that a run cut short can be summed up later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from operator import attrgetter

import msgspec

from ming_eval.load.plan import Api, Level, LoadPlan, Shape, level_of
from ming_eval.manifest import Manifest, other_kind
from ming_eval.metrics import audio, latency, stats
from ming_eval.metrics.cutting import cut_out
from ming_eval.metrics.prometheus import energy, server_view
from ming_eval.metrics.slo import limits_of
from ming_eval.metrics.stats import Interval
from ming_eval.metrics.uncertainty import intervals, over_passes
from ming_eval.metrics.validity import assess, worst_of
from ming_eval.results import (
    Achieved,
    Distribution,
    Goodput,
    Pass,
    Point,
    Speech,
    Steady,
    Summary,
    TurnFigures,
    Verdict,
)
from ming_eval.types import Outage, Phase, RequestRecord, Task, TokenSource

INTERRUPTED = Verdict("interrupted", 130, "stopped by a signal before the end")
KILLED = Verdict("killed", 130, "the process was ended before the run was")


def summarise_run(
    manifest: Manifest,
    records: Sequence[RequestRecord],
    phases: Sequence[Phase] = (),
    *,
    finished: str | None,
    cut_short: Verdict | None,
) -> Summary:
    """The summary of a sweep, by backend and rising load; `cut_short` is why it did not get to its end.

    Raises:
        DataError: the manifest is not that of a sweep.
    """
    plan = read_plan(manifest)
    points, not_started = [], []
    for backend, level in product(manifest.backends, plan.levels()):
        mine = [r for r in records if r.backend == backend.name and level_of(r) == level]
        own_phases = [p for p in phases if _is_at(p, backend.name, level)]
        if mine:
            is_cut = cut_short is not None and sum(phase.complete for phase in own_phases) < plan.repeats
            keeps = backend.keeps_connections
            points.append(
                summarise_point(mine, backend.name, level, plan, own_phases, is_cut=is_cut, keeps_connections=keeps)
            )
        elif cut_short is not None:
            not_started.append(f"{backend.name} {level.title}")
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
        not_started=tuple(not_started),
        validity=worst_of((_name(point), point.validity) for point in points if point.validity is not None),
    )


def _is_at(phase: Phase, backend: str, level: Level) -> bool:
    return phase.backend == backend and level_of(phase) == level


def _name(point: Point) -> str:
    return f"{point.backend} {Level(point.concurrency, point.rate_per_s, Task(point.task)).title}"


def read_plan(manifest: Manifest) -> LoadPlan:
    """The plan that a manifest holds.

    Raises:
        DataError: it holds none.
    """
    try:
        return msgspec.convert(manifest.settings, LoadPlan)
    except msgspec.ValidationError as exc:
        raise other_kind(manifest, "sweep", exc) from exc


def summarise_point(
    records: Sequence[RequestRecord],
    backend: str,
    level: Level,
    plan: LoadPlan,
    phases: Sequence[Phase] = (),
    *,
    is_cut: bool = False,
    keeps_connections: bool = True,
) -> Point:
    """All figures of one backend at one load; `records` are those of this point, warm-up included.

    `is_cut`: it did not get to its end. Requests in flight were given up, so that a rate would be too low.
    `keeps_connections`: the backend's dialect sends one request after the other on a connection.

    Time in which no process measured is taken out of everything, time in which the server was away out of the steady
    window and the achieved concurrency.
    """
    warmup = {record.id: record for record in records if record.warmup}.values()  # a resumed point warms up again
    measured = sorted((record for record in records if not record.warmup), key=lambda record: record.sent_s)
    good = [record for record in measured if record.ok]
    breaks = _breaks(measured, phases)
    outages = tuple(outage for phase in phases for outage in phase.outages)
    joined, busy = cut_out(measured, breaks), cut_out(measured, [*breaks, *outages])
    whole = stats.throughput(joined)
    rates = None if is_cut else whole
    planned = plan.num_requests(level) * plan.repeats
    is_closed = level.rate_per_s is None and plan.shape is not Shape.TRACE
    by_pass = _by_pass(busy)
    steady = _steady_of(by_pass, min(level.concurrency, plan.num_requests(level))) if is_closed else _NO_SLOTS
    achieved = _achieved_of(by_pass)
    passes = _passes(records, backend, level, plan, phases) if plan.repeats > 1 else ()
    server = server_view(phases)
    return Point(
        backend=backend,
        task=level.task.value,
        concurrency=level.concurrency,
        rate_per_s=level.rate_per_s,
        planned=planned,
        stopped=next((phase.stopped for phase in phases if phase.stopped is not None), None),
        requests=len(measured),
        failed=len(measured) - len(good),
        failures=dict(Counter(record.failure.value for record in measured if record.failure is not None)),
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
        usage_over_events=stats.usage_over_events(good),
        finish_reasons=dict(Counter(record.finish_reason for record in good if record.finish_reason is not None)),
        requests_per_s=rates.requests_per_s if rates else None,
        output_tokens_per_s=rates.output_tokens_per_s if rates else None,
        interrupted=is_cut,
        rate_reason=_CUT if is_cut else None,
        failure_examples=_failure_examples(measured),
        steady=_steady_figures(steady),
        steady_reason=steady.reason,
        achieved_concurrency=_achieved(achieved, len(measured), level),
        outages=outages,
        reconnections=sum(not record.reused_connection for record in measured),
        ttft_ms=distribution_ms(latency.ttft_s(record) for record in good),
        ttfc_ms=distribution_ms(latency.ttfc_s(record) for record in good),
        tpot_ms=distribution_ms(latency.tpot_s(record) for record in good),
        itl_ms=distribution_ms(gap for record in good for gap in latency.itl_samples_s(record)),
        icl_ms=distribution_ms(gap for record in good for gap in latency.icl_samples_s(record)),
        e2e_ms=distribution_ms(latency.e2e_s(record) for record in good),
        send_lag_ms=distribution_ms(latency.send_lag_s(record) for record in measured),
        stream_end_lag_ms=distribution_ms(latency.stream_end_lag_s(record) for record in good),
        connect_ms=distribution_ms(time_s for phase in phases for time_s in phase.connects_s),
        upload_ms=distribution_ms(record.upload_s for record in good),
        request_bytes=sum(record.num_request_bytes for record in measured) / len(measured) if measured else None,
        passes=passes,
        pass_intervals=_pass_intervals(passes),
        turns=_turns(measured),
        speech=_speech(good),
        goodput=_goodput(measured, limits_of(level.task, plan.slos), rates),
        intervals=intervals(good, rates.output_tokens_per_s if rates and is_closed else None, seed=plan.seed),
        length_source=next((phase.length_source for phase in phases if phase.length_source is not None), None),
        server=server,
        energy=energy(phases, whole.wall_s if whole else None, whole.num_tokens if whole else None),
        validity=assess(
            measured,
            [phase.health for phase in phases if phase.health is not None],
            requested=_requested(plan, level) if plan.shape is Shape.CLOSED and not is_cut else None,
            achieved=achieved,
            are_prompts_unique=plan.nonce,
            keeps_connections=keeps_connections,
            server=server,
            have_template=plan.api is Api.CHAT,
        ),
    )


def _requested(plan: LoadPlan, level: Level) -> int | None:
    """Requests that should be in flight; None in conversations, which end one by one and may have pauses."""
    return min(level.concurrency, plan.num_requests(level)) if plan.turns is None else None


def _by_pass(records: Sequence[RequestRecord]) -> list[list[RequestRecord]]:
    found: dict[int, list[RequestRecord]] = {}
    for record in records:
        found.setdefault(record.repeat, []).append(record)
    return list(found.values())


def _steady_of(passes: Sequence[Sequence[RequestRecord]], num_slots: int) -> stats.Steady:
    """The steady windows of all passes together; the first reason why one of them has none."""
    found = [stats.steady(_by_slot(each, num_slots)) for each in passes] or [stats.steady([])]
    windows = [each.throughput for each in found if each.throughput is not None]
    if len(windows) < len(found):
        return next(each for each in found if each.throughput is None)
    tokens = [window.num_tokens for window in windows]
    wall_s = sum(window.wall_s for window in windows)
    requests = sum(window.num_requests for window in windows)
    known = [count for count in tokens if count is not None]
    return stats.Steady(stats.Throughput(0.0, wall_s, requests, sum(known) if len(known) == len(tokens) else None))


def _achieved_of(passes: Sequence[Sequence[RequestRecord]]) -> stats.Achieved | None:
    """Over all passes: between two of them nothing is in flight, which is no fault."""
    found = [achieved for each in passes if (achieved := stats.achieved_concurrency(each)) is not None]
    if not found:
        return None
    return stats.Achieved(sum(each.mean for each in found) / len(found), max(each.max for each in found))


def _passes(
    records: Sequence[RequestRecord], backend: str, level: Level, plan: LoadPlan, phases: Sequence[Phase]
) -> tuple[Pass, ...]:
    once, found = replace(plan, repeats=1), []
    for repeat in range(1, plan.repeats + 1):
        mine = [record for record in records if record.repeat == repeat]
        if any(not record.warmup for record in mine):
            point = summarise_point(mine, backend, level, once, [phase for phase in phases if phase.repeat == repeat])
            found.append(
                Pass(
                    repeat=repeat,
                    requests=point.requests,
                    failed=point.failed,
                    requests_per_s=point.requests_per_s,
                    output_tokens_per_s=point.output_tokens_per_s,
                    ttft_ms=point.ttft_ms,
                    tpot_ms=point.tpot_ms,
                    e2e_ms=point.e2e_ms,
                )
            )
    return tuple(found)


def _pass_intervals(passes: Sequence[Pass]) -> dict[str, Interval]:
    figures = ["requests_per_s", "output_tokens_per_s"]
    figures += [f"{name}.{what}" for name in ("ttft_ms", "tpot_ms", "e2e_ms") for what in ("mean", "p50", "p95", "p99")]
    found = {figure: over_passes([attrgetter(figure)(each) for each in passes]) for figure in figures}
    return {figure: interval for figure, interval in found.items() if interval is not None}


def _turns(measured: Sequence[RequestRecord]) -> tuple[TurnFigures, ...]:
    by_turn: dict[int, list[RequestRecord]] = {}
    for record in measured:
        if record.turn is not None:
            by_turn.setdefault(record.turn, []).append(record)
    return tuple(_turn(number, by_turn[number]) for number in sorted(by_turn))


def _turn(number: int, records: Sequence[RequestRecord]) -> TurnFigures:
    good = [record for record in records if record.ok]
    prompt_tokens, cached = (
        _total(record.num_prompt_tokens for record in good),
        _total(record.num_cached_tokens for record in good),
    )
    return TurnFigures(
        turn=number,
        requests=len(records),
        failed=len(records) - len(good),
        prompt_tokens=None if prompt_tokens is None else prompt_tokens / len(good),
        cached_share=cached / prompt_tokens if cached is not None and prompt_tokens else None,
        ttft_ms=distribution_ms(latency.ttft_s(record) for record in good),
        tpot_ms=distribution_ms(latency.tpot_s(record) for record in good),
        e2e_ms=distribution_ms(latency.e2e_s(record) for record in good),
    )


_CUT = "interrupted: what was in flight was given up"
_NO_SLOTS = stats.Steady(None, "requests of an open loop do not wait for each other")


def _failure_examples(measured: Sequence[RequestRecord]) -> dict[str, str]:
    """The first error text of each class of failures."""
    found: dict[str, str] = {}
    for record in measured:
        if record.failure is not None and record.error:
            found.setdefault(record.failure.value, record.error)
    return found


def _breaks(measured: Sequence[RequestRecord], phases: Sequence[Phase]) -> list[Outage]:
    """From the last request of a process that ended early to the first of the one that resumed the run."""
    found = []
    for phase in phases:
        earlier = [record.done_s for record in measured if record.sent_s < phase.started_s]
        if earlier:
            found.append(Outage(min(max(earlier), phase.started_s), phase.started_s))
    return found


def _speech(good: Sequence[RequestRecord]) -> Speech | None:
    spoken = [(record, pieces) for record in good if (pieces := audio.stored_pieces(record))]
    lengths = [audio.audio_s(pieces) for _, pieces in spoken]
    if not spoken or None in lengths:  # no audio, or of unknown length
        return None
    played = [heard for _, pieces in spoken if (heard := audio.play(pieces)) is not None]
    return Speech(
        requests=len(spoken),
        audio_s=sum(length for length in lengths if length is not None),
        ttfa_ms=distribution_ms(latency.ttfa_s(record) for record, _ in spoken),
        rtf=_distribution(stats.rtf(record) for record, _ in spoken),
        rtf_gen=_distribution(audio.rtf_gen(pieces) for _, pieces in spoken),
        prebuffer_ms=distribution_ms(audio.smallest_prebuffer_s(pieces) for _, pieces in spoken),
        stalls=sum(heard.num_stalls for heard in played),
        stalled_s=sum(heard.stalled_s for heard in played),
    )


def _goodput(
    measured: Sequence[RequestRecord], slos: Mapping[str, float], whole: stats.Throughput | None
) -> Goodput | None:
    found = stats.goodput(measured, slos) if slos else None
    if found is None:
        return None
    rate = found.num_good / whole.wall_s if whole and whole.wall_s > 0 else None
    return Goodput(slos, found.num_good, found.num_requests, found.share, found.interval, rate)


def distribution_ms(values_s: Iterable[float | None]) -> Distribution:
    """Seconds to a distribution in milliseconds."""
    return _distribution(1000 * value if value is not None else None for value in values_s)


def _distribution(values: Iterable[float | None]) -> Distribution:
    found = stats.summarise(values)
    if found is None:
        return Distribution()
    figures = (found.mean, found.p50, found.p95, found.p99, found.min, found.max)
    return Distribution(found.count, *(round(figure, 4) for figure in figures))


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


def _achieved(found: stats.Achieved | None, num_requests: int, level: Level) -> Achieved:
    if found is None:
        return Achieved(None, 0)
    # A slot that sends once only has no time at which it should be busy: a mean would be that of the ramp.
    return Achieved(found.mean if num_requests > level.concurrency else None, found.max)


def _total(counts: Iterable[int | None]) -> int | None:
    """Their sum, None where one is not known."""
    known = list(counts)
    return None if not known or None in known else sum(count for count in known if count is not None)


def _token_source(good: Sequence[RequestRecord]) -> TokenSource | None:
    """Where the token counts of a point come from; of several sources the least exact."""
    sources = {record.token_source for record in good}
    return next((source for source in reversed(TokenSource) if source in sources), None)
