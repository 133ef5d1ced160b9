from dataclasses import replace
from typing import Any

from ming_eval.metrics.prometheus import ServerView
from ming_eval.report.observations import observations
from ming_eval.results import Achieved, Distribution, Point, Summary
from ming_eval.types import TokenSource
from tests.ming_eval.factories import make_point, make_summary


def said(*points: Point) -> str:
    return "\n".join(observations(make_summary(*points)))


def slow(p50: float, p95: float) -> Distribution:
    return Distribution(count=100, mean=p50, p50=p50, p95=p95, p99=p95, min=p50, max=p95)


def test_a_clean_run_says_so_and_gives_scaling_knee_and_tail() -> None:
    points = (make_point(1, 100), make_point(2, 190), make_point(4, 200, e2e_ms=slow(200, 210)))
    assert observations(make_summary(*points)) == [
        "All 300 requests succeeded.",
        "c=4 gives 2.00 x the tokens per second of c=1: 200 tok/s, the highest of the run.",
        "Knee at c=2: from there to c=4 throughput is 1.05 x, median E2E 2.00 x as long.",
        "Tail: p95 E2E is at most 1.10 x the median (at c=1).",
    ]


def test_a_server_that_was_hardly_seen_at_work_says_nothing() -> None:
    gauges: dict[str, Any] = dict.fromkeys(
        ("running_mean", "running_max", "waiting_mean", "waiting_max", "kv_used_max", "prefix_hit_share")
    )
    unseen = ServerView(num_samples=0, preemptions=0.0, **gauges)
    assert "server says" not in said(make_point(1, 100, server=unseen))
    assert "server says" not in said(make_point(1, 100, server=replace(unseen, num_samples=2, running_max=1.0)))
    assert "c=1 1.00 / - / -" in said(make_point(1, 100, server=replace(unseen, num_samples=3, running_max=1.0)))
    assert "preempted" not in said(make_point(1, 100, server=unseen))
    assert "its KV cache being full: c=1 60 times." in said(
        make_point(1, 100, server=replace(unseen, preemptions=60.0))
    )


def test_no_knee_is_claimed_from_two_points() -> None:
    assert "nee" not in said(make_point(1, 100), make_point(2, 100))


def test_growth_to_the_end_is_no_knee() -> None:
    assert "No knee up to c=4" in said(make_point(1, 100), make_point(2, 190), make_point(4, 370))


def test_a_peak_before_the_end_is_named() -> None:
    assert "the highest is 300 tok/s at c=2" in said(make_point(1, 100), make_point(2, 300), make_point(4, 250))


def test_failures_are_counted_by_class_and_place() -> None:
    bad = make_point(2, failed=5, failures={"reset": 1, "http_5xx": 4}, error_rate=0.05)
    assert "5 of 200 requests failed (2.5 %): a c=2: 4 http_5xx, 1 reset." in said(make_point(1), bad)


def test_a_run_without_requests_claims_nothing() -> None:
    assert observations(make_summary()) == ["No request has ended."]


def test_long_tail_names_point_and_figures() -> None:
    text = said(make_point(1), make_point(2, e2e_ms=slow(100, 350)))
    assert "Long tail: at c=2 p95 E2E is 3.50 x the median (350 against 100 ms)." in text


def test_failed_warmup_is_not_hidden() -> None:
    assert "3 of 3 warm-up requests failed" in said(make_point(1), make_point(2, warmup_failed=3))
    assert "warm-up" not in said(make_point(1))


def test_load_that_was_not_reached_is_named() -> None:
    assert "asked for: c=8: 6.0 on average." in said(make_point(8, achieved_concurrency=Achieved(6.0, 8)))
    assert "asked for: c=8: at most 5." in said(make_point(8, achieved_concurrency=Achieved(None, 5)))
    assert "asked for" not in said(make_point(8, achieved_concurrency=Achieved(7.9, 8)))


def test_token_counts_that_are_not_the_servers_own_are_named() -> None:
    assert "counted from events" in said(make_point(1, token_source=TokenSource.EVENTS))
    mixed = said(make_point(1), make_point(2, token_source=TokenSource.EVENTS))
    assert "do not compare" in mixed


def test_replies_shorter_than_asked_for_are_named_only_where_the_length_is_fixed() -> None:
    summary = make_summary(make_point(1, output_tokens=3200))
    assert "a: replies are 32.0 tokens long on average, not 64" in "\n".join(observations(summary))
    natural = replace(summary, settings={**summary.settings, "ignore_eos": False})
    assert "on average" not in "\n".join(observations(natural))
    drawn = replace(summary, settings={**summary.settings, "output_tokens": "16..32"})
    assert "on average" not in "\n".join(observations(drawn))


def test_replies_that_the_context_cut_short_are_not_the_models_doing() -> None:
    """vLLM 0.32.0 with a context of 512: 300 tokens behind a long prompt end early, with finish_reason length."""
    cut = said(make_point(1, output_tokens=3200, finish_reasons={"length": 100}))
    assert "the server ended them (finish_reason length)" in cut
    ended = said(make_point(1, output_tokens=3200, finish_reasons={"length": 90, "stop": 10}))
    assert "not 64: the model ended them." in ended
    silent = said(make_point(1, output_tokens=3200, finish_reasons={}))  # a dialect whose replies have no reason
    assert "finish_reason" not in silent
    assert "not 64" in silent


def test_different_ends_of_replies_are_named() -> None:
    text = said(make_point(1, finish_reasons={"length": 90, "stop": 10}))
    assert "Replies ended for different reasons: 90 length, 10 stop." in text


def test_percentiles_of_few_requests_are_put_in_their_place() -> None:
    assert "Points with fewer than 100 requests: 1;" in said(make_point(1, requests=16), make_point(2))


def test_backends_are_told_apart_where_there_are_several() -> None:
    both = [make_point(c, 100 * c, backend=name) for name in ("a", "b") for c in (1, 2)]
    lines: list[str] = observations(make_summary(*both))
    assert sum(line.startswith("a: ") for line in lines) == sum(line.startswith("b: ") for line in lines) == 2


def cut(concurrency: int, **values: Any) -> Point:
    """A point that was interrupted after 40 of 100 requests."""
    return make_point(concurrency, None, requests=40, interrupted=True, **values)


def test_points_that_were_cut_short_make_no_claims() -> None:
    """Two whole points are too few for a knee; the cut one has the longest tail and reached the least."""
    points = (
        make_point(1, 100),
        make_point(2, 190),
        cut(4, e2e_ms=slow(100, 900), achieved_concurrency=Achieved(1, 2)),
    )
    summary = make_summary(*points, partial=True, not_started=("a c=8", "a c=16"))
    assert observations(summary) == [
        "None of the 240 requests that ended has failed.",
        "Not started: a c=8, a c=16.",
        "c=2 gives 1.90 x the tokens per second of c=1: 190 tok/s, the highest of the run.",
        "Tail: p95 E2E is at most 1.10 x the median (at c=1).",
        "Points with fewer than 100 requests: 1; their p95 and p99 rest on a handful of them.",
    ]


def test_a_handful_of_requests_makes_neither_a_knee_nor_a_tail() -> None:
    def text(requests: int) -> str:
        return said(*(make_point(c, 100, requests=requests, e2e_ms=slow(100, 400)) for c in (1, 2, 4)))

    assert "Knee at c=1" in text(10)
    assert "Long tail" in text(10)
    assert "nee" not in text(9)
    assert "tail" not in text(9)


def test_unfinished_points_do_not_break_it() -> None:
    empty = Distribution()
    hole = make_point(4, None, requests=0, planned=16, error_rate=None, wall_s=None, e2e_ms=empty, output_tokens=None)
    summary: Summary = make_summary(make_point(1), make_point(2), hole)
    assert observations(summary)[0] == "All 200 requests succeeded."
