"""Figures of a point and verdict of a run, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ming_eval.errors import DataError
from ming_eval.load.plan import Level, Shape
from ming_eval.load.summary import INTERRUPTED, distribution_ms, summarise_point, summarise_run
from ming_eval.results import Distribution
from ming_eval.types import ClientHealth, Failure, Outage, Phase, RequestRecord, ServerSample, TokenSource
from tests.ming_eval.factories import make_backend, make_manifest, make_plan, make_record

FAILED = {
    "failure": Failure.RESET,
    "first_output_s": None,
    "last_output_s": None,
    "output_times_s": (),
    "output_event_tokens": (),
    "num_output_tokens": None,
    "num_prompt_tokens": None,
    "num_cached_tokens": None,
    "token_source": None,
    "finish_reason": None,
    "error": "connection reset",
}


def two_good_one_failed() -> list[RequestRecord]:
    """Sent at 1.0, 1.2 and 1.4; the good ones take 0.16 s each, the failed one 0.6 s."""
    return [
        make_record(id="w", warmup=True, sent_s=0.5, **FAILED, done_s=0.6),
        make_record(sent_s=1.0, index=0),
        make_record(sent_s=1.4, index=2, **FAILED, done_s=2.0, reused_connection=False),
        make_record(sent_s=1.2, index=1),
    ]


def test_point_by_hand() -> None:
    point = summarise_point(two_good_one_failed(), "a", Level(1), make_plan(requests=5))
    assert (point.planned, point.requests, point.failed, point.failures) == (5, 3, 1, {"reset": 1})
    assert point.error_rate == pytest.approx(1 / 3)
    assert (point.warmup_requests, point.warmup_failed) == (1, 1)
    assert (point.started_s, point.wall_s) == (1.0, pytest.approx(1.0))
    assert (point.output_tokens, point.prompt_tokens, point.cached_tokens) == (8, 20, 0)
    assert point.requests_per_s == pytest.approx(2.0)
    assert point.output_tokens_per_s == pytest.approx(8.0)
    assert (point.token_source, point.tokens_per_event) == (TokenSource.USAGE, 1.0)
    assert point.finish_reasons == {"length": 2}
    assert point.reconnections == 1
    assert point.ttft_ms.p50 == pytest.approx(100.0)
    assert point.e2e_ms.p99 == pytest.approx(160.0)
    assert point.tpot_ms.mean == pytest.approx(20.0)
    assert (point.itl_ms.count, point.itl_ms.mean) == (6, pytest.approx(20.0))


def test_closed_loop_has_no_send_lag_and_says_so_with_null() -> None:
    assert summarise_point(two_good_one_failed(), "a", Level(1), make_plan()).send_lag_ms == Distribution()


def test_only_failures_give_no_latency_and_no_token_count_of_zero_dressed_as_a_value() -> None:
    point = summarise_point([make_record(**FAILED, done_s=1.0)], "a", Level(1), make_plan())
    assert point.ttft_ms == point.e2e_ms == Distribution()
    assert point.prompt_tokens is None
    assert point.token_source is None
    assert point.error_rate == 1.0


def test_an_unknown_token_count_makes_the_sum_unknown() -> None:
    unknown = make_record(sent_s=1.0, num_output_tokens=None, num_prompt_tokens=None, token_source=None)
    point = summarise_point([make_record(), unknown], "a", Level(1), make_plan())
    assert point.output_tokens is None
    assert point.output_tokens_per_s is None
    assert point.prompt_tokens is None


def test_the_least_exact_token_source_names_the_point() -> None:
    records = [make_record(), make_record(sent_s=1.0, token_source=TokenSource.EVENTS)]
    assert summarise_point(records, "a", Level(1), make_plan()).token_source is TokenSource.EVENTS


def test_achieved_concurrency_needs_more_requests_than_slots() -> None:
    records = [make_record(sent_s=0.0, slot=0), make_record(sent_s=0.01, slot=1), make_record(sent_s=0.16, slot=0)]
    assert summarise_point(records[:2], "a", Level(2), make_plan()).achieved_concurrency.mean is None
    achieved = summarise_point(records, "a", Level(2), make_plan()).achieved_concurrency
    assert achieved.max == 2
    assert achieved.mean == pytest.approx((0.01 * 1 + 0.15 * 2) / 0.16)


def test_steady_window_by_hand() -> None:
    """Two slots, 10 requests of 0.16 s each, back to back: the window is the 9 rounds after the first."""
    records = [
        make_record(sent_s=0.16 * turn, slot=slot, index=2 * turn + slot) for turn in range(10) for slot in range(2)
    ]
    steady = summarise_point(records, "a", Level(2), make_plan(requests=20)).steady
    assert steady is not None
    assert steady.window_s == pytest.approx(9 * 0.16)
    assert steady.requests_per_s == pytest.approx(2 / 0.16)
    assert steady.output_tokens_per_s == pytest.approx(8 / 0.16)


def test_no_steady_figure_gives_its_reason() -> None:
    point = summarise_point([make_record()], "a", Level(1), make_plan())
    assert point.steady is None
    assert point.steady_reason


def test_milliseconds() -> None:
    assert distribution_ms([0.001, None, 0.003]) == Distribution(2, 2.0, 2.0, 2.9, 2.98, 1.0, 3.0)
    assert distribution_ms([]) == Distribution()


@pytest.mark.parametrize(
    ("num_failed", "status", "exit_code"), [(0, "complete", 0), (1, "complete", 0), (2, "errors", 1)]
)
def test_exit_code_follows_the_share_of_failures(num_failed: int, status: str, exit_code: int) -> None:
    """5 % of 20 requests is one: allowed; two are not."""
    records = [make_record(index=i, **(FAILED if i < num_failed else {})) for i in range(20)]
    summary = summarise_run(make_manifest(make_plan()), records, finished="later", cut_short=None)
    assert (summary.verdict.status, summary.verdict.exit_code) == (status, exit_code)
    assert (summary.requests, summary.failed, summary.partial) == (20, num_failed, False)


def test_points_come_by_backend_and_concurrency_and_only_if_reached() -> None:
    records = [make_record(backend=b, concurrency=c) for c, b in [(1, "b"), (1, "a"), (2, "a"), (2, "b"), (4, "b")]]
    manifest = make_manifest(make_plan(concurrencies=(1, 2, 4)), make_backend("b"), make_backend("a"))
    summary = summarise_run(manifest, records, finished=None, cut_short=INTERRUPTED)
    places = [(point.backend, point.concurrency) for point in summary.points]
    assert places == [("b", 1), ("b", 2), ("b", 4), ("a", 1), ("a", 2)]
    assert summary.partial
    assert summary.verdict.exit_code == 130


def test_a_point_of_a_run_cut_short_is_whole_if_its_phase_came_to_its_end() -> None:
    """c=1 has ended, c=2 has not, c=4 has sent nothing. 4 tokens in 0.16 s are 25 a second."""
    records = [make_record(concurrency=1), make_record(concurrency=2)]
    phases = [phase(0.0, 1.0, complete=True), phase(1.0, 2.0, concurrency=2, complete=False)]
    manifest = make_manifest(make_plan(concurrencies=(1, 2, 4)))
    summary = summarise_run(manifest, records, phases, finished="later", cut_short=INTERRUPTED)
    whole, cut = summary.points
    assert (whole.interrupted, whole.rate_reason) == (False, None)
    assert whole.output_tokens_per_s == pytest.approx(25)
    assert (cut.interrupted, cut.output_tokens_per_s, cut.requests_per_s) == (True, None, None)
    assert cut.rate_reason == "interrupted: what was in flight was given up"
    assert "output_tokens_per_s" not in cut.intervals
    assert summary.not_started == ("a c=4",)


def test_points_of_a_run_that_came_to_its_end_are_whole() -> None:
    summary = summarise_run(make_manifest(make_plan()), [make_record()], finished="later", cut_short=None)
    assert [point.interrupted for point in summary.points] == [False]
    assert summary.not_started == ()


def test_the_first_error_of_each_class_is_kept_as_an_example() -> None:
    errors = (("reset", Failure.RESET, 0.0), ("reset again", Failure.RESET, 1.0), ("500", Failure.HTTP_5XX, 2.0))
    records = [make_record(**FAILED | {"error": text, "failure": kind, "sent_s": at}) for text, kind, at in errors]
    point = summarise_point(records, "a", Level(1), make_plan())
    assert point.failure_examples == {"reset": "reset", "http_5xx": "500"}


def test_a_run_without_any_request_is_no_success() -> None:
    summary = summarise_run(make_manifest(make_plan()), [], finished=None, cut_short=None)
    assert summary.verdict.exit_code == 1
    assert summary.error_rate is None


def test_a_manifest_of_something_else_is_a_data_error() -> None:
    manifest = make_manifest(make_plan())
    strange = replace(manifest, settings={})
    with pytest.raises(DataError, match="no run of `ming-eval sweep`"):
        summarise_run(strange, [], finished=None, cut_short=None)


AT_EASE = ClientHealth(
    wall_s=5.0,
    cpu_s=0.5,
    loop_lag_s=0.001,
    num_loop_samples=500,
    receive_lag_s=None,
    num_receive_stamps=0,
    clock_drift_s=None,
    gc_pause_max_s=0.0,
    gc_pauses_s=0.0,
)


@pytest.mark.parametrize(("looked_up", "cached_share"), [(400, (0.84 * 100 - 64) / 36), (800, None)])
def test_counters_of_the_server_say_how_warm_its_cache_was(looked_up: int, cached_share: float | None) -> None:
    """Four prompts of 100 tokens: the server looked up these, or as many of somebody else's beside them."""
    records = [make_record(id=str(i), index=i, num_prompt_tokens=100, num_cached_tokens=None) for i in range(4)]
    grown = {"prefix_hits": 0.84 * looked_up, "prefix_queries": float(looked_up)}
    looks = (ServerSample(time_s=0.0, prefix_hits=0.0, prefix_queries=0.0), ServerSample(time_s=5.0, **grown))
    point = summarise_point(
        records, "a", Level(1), make_plan(requests=4), [phase(0.0, 5.0, health=AT_EASE, server=looks)]
    )
    assert point.validity is not None
    assert point.validity.cached_share == (None if cached_share is None else pytest.approx(cached_share))


@pytest.mark.parametrize(("dialect", "is_doubted"), [("vllm", True), ("llamacpp", False), ("of-a-later-time", True)])
def test_a_connection_for_each_request_is_doubted_where_the_dialect_keeps_them(dialect: str, is_doubted: bool) -> None:
    manifest = make_manifest(make_plan(nonce=False), make_backend(dialect=dialect))
    records = [make_record(id=str(i), sent_s=float(i), reused_connection=False) for i in range(4)]
    phases = [phase(0.0, 5.0, health=AT_EASE)]
    (point,) = summarise_run(manifest, records, phases, finished="later", cut_short=None).points
    assert point.validity is not None
    assert point.validity.connection_reuse == 0.0
    doubts = [reason for reason in point.validity.reasons if "open connection" in reason]
    assert doubts == (["requests on an open connection 0, below 0.5"] if is_doubted else [])


# --- what is more than a closed loop of text -------------------------------------------------------------------------


def phase(started_s: float, ended_s: float, **values: Any) -> Phase:
    plain: dict[str, Any] = {"backend": "a", "concurrency": 1, "rate_per_s": None, "complete": True}
    return Phase(started_s=started_s, ended_s=ended_s, **(plain | values))


def one_after_the_other(*starts_s: float) -> list[RequestRecord]:
    """Requests of 0.16 s each, in one slot."""
    return [make_record(id=str(i), sent_s=start_s, index=i) for i, start_s in enumerate(starts_s)]


def test_an_outage_is_in_the_wall_time_but_in_no_steady_figure() -> None:
    records = one_after_the_other(*[0.2 * i for i in range(5)], *[5 + 0.2 * i for i in range(5)])
    plan = make_plan(requests=10)
    without = summarise_point(records, "a", Level(1), plan, [phase(0.0, 6.0)])
    point = summarise_point(records, "a", Level(1), plan, [phase(0.0, 6.0, outages=(Outage(0.96, 4.96),))])
    assert point.wall_s == without.wall_s == pytest.approx(5.96)
    assert point.outages == (Outage(0.96, 4.96),)
    assert without.steady is not None
    assert point.steady is not None
    assert point.steady.window_s == pytest.approx(without.steady.window_s - 4.0)


def test_the_time_between_a_kill_and_its_resumption_is_in_no_figure() -> None:
    """Two requests, a kill at 0.5, and two more from 100.0 on; the wall time is that of the two parts."""
    records = one_after_the_other(0.0, 0.2, 100.0, 100.2)
    point = summarise_point(records, "a", Level(1), make_plan(requests=4), [phase(100.0, 100.4)])
    assert point.wall_s == pytest.approx(0.36 + 0.36)
    assert point.outages == ()
    assert point.achieved_concurrency.mean == pytest.approx((0.16 + 0.16 + 0.16) / 0.56)


def test_a_second_warm_up_counts_once() -> None:
    records = [make_record(id="c1-warmup-0", warmup=True)] * 2 + one_after_the_other(1.0)
    assert summarise_point(records, "a", Level(1), make_plan()).warmup_requests == 1


def test_speech_by_hand() -> None:
    """1 s of audio at 0.5 s and 1 s more at 2.0 s: silence from 1.5 to 2.0, which a delay of 0.5 s would hide."""
    spoken = make_record(
        first_audio_s=0.5, audio_times_s=(0.5, 2.0), audio_durations_s=(1.0, 1.0), last_output_s=2.0, audio_s=2.0
    )
    speech = summarise_point([spoken, make_record(id="x", **FAILED)], "a", Level(1), make_plan()).speech
    assert speech is not None
    assert (speech.requests, speech.audio_s, speech.stalls) == (1, 2.0, 1)
    assert speech.stalled_s == pytest.approx(0.5)
    assert (speech.ttfa_ms.p50, speech.rtf.p50, speech.rtf_gen.p50, speech.prebuffer_ms.p50) == (500, 1.0, 0.75, 500)
    assert summarise_point([make_record()], "a", Level(1), make_plan()).speech is None


def test_points_of_an_open_loop_are_told_apart_by_their_rate() -> None:
    plan = make_plan(shape=Shape.POISSON, rates_per_s=(1.0, 2.0), concurrencies=(8,))
    records = [
        make_record(id=str(i), concurrency=8, rate_per_s=rate, intended_s=0.0) for i, rate in enumerate((2.0, 1.0, 2.0))
    ]
    summary = summarise_run(make_manifest(plan), records, finished="later", cut_short=None)
    assert [(point.rate_per_s, point.requests) for point in summary.points] == [(1.0, 1), (2.0, 2)]
    assert all(point.steady is None for point in summary.points)


def test_usage_is_checked_against_events() -> None:
    more = make_record(num_output_tokens=8, output_event_tokens=(2, 2, 2, 2))
    assert summarise_point([more], "a", Level(1), make_plan()).usage_over_events == pytest.approx(1.0)
    counted = make_record(token_source=TokenSource.EVENTS)
    assert summarise_point([counted], "a", Level(1), make_plan()).usage_over_events is None
