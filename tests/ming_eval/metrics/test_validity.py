"""The verdict on the client: limits by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ming_eval.metrics.prometheus import ServerView
from ming_eval.metrics.stats import Achieved
from ming_eval.metrics.validity import Trust, Validity, assess, worst_of
from ming_eval.types import ClientHealth, Failure, RequestRecord
from tests.ming_eval.factories import make_record


def health(**values: Any) -> ClientHealth:
    """A client at its ease."""
    plain: dict[str, Any] = {
        "wall_s": 10.0,
        "cpu_s": 1.0,
        "loop_lag_s": 0.001,
        "num_loop_samples": 1000,
        "receive_lag_s": 0.0002,
        "num_receive_stamps": 500,
        "clock_drift_s": 0.00001,
        "gc_pause_max_s": 0.001,
        "gc_pauses_s": 0.002,
    }
    return ClientHealth(**(plain | values))


def counted(hit_share: float, queries: float) -> ServerView:
    """What the counters of GET /metrics grew by."""
    unseen = dict.fromkeys(("running_mean", "running_max", "waiting_mean", "waiting_max", "kv_used_max", "preemptions"))
    return ServerView(num_samples=0, prefix_hit_share=hit_share, prefix_queries=queries, **unseen)


def judge(*healths: ClientHealth, records: list[RequestRecord] | None = None, **values: Any) -> Validity:
    options: dict[str, Any] = {
        "requested": 4,
        "achieved": Achieved(4.0, 4),
        "are_prompts_unique": True,
        "keeps_connections": True,
    }
    plain = [make_record(id=str(i), num_prompt_tokens=100) for i in range(8)]
    found = assess(records or plain, healths, **(options | values))
    assert found is not None
    return found


def test_a_client_at_its_ease_is_valid_and_every_figure_is_there() -> None:
    found = judge(health())
    assert (found.verdict, found.reasons) == (Trust.VALID, ())
    assert (found.cpu_share, found.loop_lag_p99_ms, found.receive_lag_p99_ms) == (0.1, 1.0, 0.2)
    assert (found.requested_concurrency, found.achieved_concurrency_mean, found.achieved_concurrency_max) == (4, 4.0, 4)
    assert (found.connection_reuse, found.tokens_per_event, found.cached_share) == (1.0, 1.0, 0.0)
    assert found.send_lag_p99_ms is None  # a closed loop has none


@pytest.mark.parametrize(
    ("values", "suspect", "invalid"),
    [
        ("cpu_s", 8.5, 9.7),
        ("loop_lag_s", 0.006, 0.021),
        ("receive_lag_s", 0.004, 0.011),
        ("gc_pause_max_s", 0.011, 0.051),
    ],
)
def test_each_limit_has_two_steps(values: str, suspect: float, invalid: float) -> None:
    assert judge(health(**{values: suspect})).verdict is Trust.SUSPECT
    assert judge(health(**{values: invalid})).verdict is Trust.INVALID


def test_late_sending_makes_an_open_loop_invalid() -> None:
    late = [make_record(id=str(i), intended_s=0.0, sent_s=0.03) for i in range(8)]
    found = judge(health(), records=late, requested=None)
    assert found.verdict is Trust.INVALID
    assert found.reasons == ("send lag p99 30 ms, above 20 ms",)


def test_missing_concurrency_is_the_clients_fault() -> None:
    assert judge(health(), achieved=Achieved(3.9, 4)).verdict is Trust.SUSPECT
    found = judge(health(), achieved=Achieved(3.0, 4))
    assert (found.verdict, found.reasons) == (
        Trust.INVALID,
        ("concurrency achieved / requested 0.75, below 0.9",),
    )


def test_a_warm_prefix_cache_is_a_reason_for_doubt_only_where_no_prompt_came_twice() -> None:
    warm = [make_record(id=str(i), num_prompt_tokens=100, num_cached_tokens=96) for i in range(8)]
    found = judge(health(), records=warm)
    assert found.cached_share == pytest.approx(32 / 36)  # 64 of the 96 could be a chat template
    assert found.verdict is Trust.SUSPECT
    assert judge(health(), records=warm, are_prompts_unique=False).verdict is Trust.VALID


def test_raw_prompts_share_nothing_so_every_hit_is_a_warm_cache() -> None:
    """64 random token ids, asked a second time: 3 of 4 blocks are known, which of a chat could be the template."""
    warm = [make_record(id=str(i), num_prompt_tokens=64, num_cached_tokens=48) for i in range(8)]
    assert judge(health(), records=warm).verdict is Trust.VALID
    found = judge(health(), records=warm, have_template=False)
    assert (found.cached_share, found.verdict) == (0.75, Trust.SUSPECT)
    silent = [make_record(id=str(i), num_prompt_tokens=64, num_cached_tokens=None) for i in range(8)]
    counted_share = judge(health(), records=silent, server=counted(0.75, 512), have_template=False).cached_share
    assert counted_share == 0.75


def test_a_chat_template_and_the_turns_before_are_rightly_found_in_the_cache() -> None:
    cold = [make_record(id=str(i), num_prompt_tokens=40 + i, num_cached_tokens=16) for i in range(8)]
    assert judge(health(), records=cold).cached_share == 0.0
    later = [make_record(id=f"t{i}", num_prompt_tokens=400, num_cached_tokens=380, turn=2) for i in range(8)]
    assert judge(health(), records=[*cold, *later]).cached_share == 0.0
    one_warm = [*cold, make_record(id="w", num_prompt_tokens=400, num_cached_tokens=380)]
    assert judge(health(), records=one_warm).verdict is Trust.SUSPECT


def test_a_warm_cache_shows_in_the_servers_counters_where_usage_is_silent() -> None:
    """vLLM as it is started by default: 600 tokens a prompt, 84 % of them hits, and no word of it in the usage."""
    asked = [make_record(id=str(i), num_prompt_tokens=600, num_cached_tokens=None) for i in range(8)]
    found = judge(health(), records=asked, server=counted(0.84, 4800))
    assert found.cached_share == pytest.approx((0.84 * 600 - 64) / (600 - 64))
    assert found.verdict is Trust.SUSPECT
    assert judge(health(), records=asked, server=counted(0.1, 4800)).verdict is Trust.VALID  # a template of 60 tokens
    assert judge(health(), records=asked).cached_share is None
    told = [make_record(id=str(i), num_prompt_tokens=600, num_cached_tokens=0) for i in range(8)]
    assert (
        judge(health(), records=told, server=counted(0.84, 4800)).cached_share == 0.0
    )  # hits of others who ask it too
    later = [make_record(id="t", num_prompt_tokens=900, num_cached_tokens=None, turn=2)]
    assert judge(health(), records=[*asked, *later], server=counted(0.84, 5700)).cached_share is None
    short = [make_record(id=str(i), num_prompt_tokens=70, num_cached_tokens=None) for i in range(8)]
    assert judge(health(), records=short, server=counted(0.9, 560)).cached_share is None


def test_hits_of_somebody_elses_requests_are_no_warm_cache() -> None:
    """A chat service that asks the server 43,200 tokens of its own meanwhile, all but 720 of them hits."""
    asked = [make_record(id=str(i), num_prompt_tokens=600, num_cached_tokens=None) for i in range(8)]
    shared = judge(health(), records=asked, server=counted(0.885, 48_000))
    assert (shared.verdict, shared.cached_share) == (Trust.VALID, None)
    refused = make_record(id="r", num_prompt_tokens=None, num_cached_tokens=None, failure=Failure.TIMEOUT_TOTAL)
    found = judge(health(), records=[*asked, refused], server=counted(0.84, 5400))
    assert found.verdict is Trust.SUSPECT  # the server looked up the prompt of the failed one too


def cached_of(*counts: tuple[int, int]) -> float | None:
    """Of requests with so many tokens from the cache in prompts of so many."""
    records = [
        make_record(id=str(i), num_cached_tokens=cached, num_prompt_tokens=total)
        for i, (cached, total) in enumerate(counts)
    ]
    return judge(health(), records=records).cached_share


def test_a_warm_cache_shows_in_short_prompts_or_they_are_said_to_be_too_short_to_tell() -> None:
    """64 tokens and a template of 20, warm and cold; then prompts that a template of up to 64 tokens may fill."""
    assert cached_of(*[(80, 84)] * 4) == pytest.approx(16 / 20)
    assert cached_of(*[(16, 84)] * 4) == 0.0
    assert cached_of(*[(64, 64)] * 4) is None
    assert cached_of(*[(64, 80)] * 4) is None  # warm: the last of 5 blocks is never wholly cached
    assert cached_of(*[(64, 81)] * 4) == 0.0  # a warm cache would have given 80
    assert cached_of((16, 64), *[(48, 64)] * 3) == pytest.approx(96 / 192)  # a cold prompt shows the template


def ttfts(*milliseconds: float) -> list[RequestRecord]:
    return [
        make_record(id=str(i), sent_s=float(i), first_output_s=i + ms / 1000, slot=0)
        for i, ms in enumerate(milliseconds)
    ]


def test_ttft_that_falls_within_a_point_betrays_a_cache() -> None:
    """The slot's first request is left out; then 20 of 100 ms and 20 of 40 ms."""
    falling = ttfts(900, *[100 + i / 10 for i in range(20)], *[40 + i / 10 for i in range(20)])
    found = judge(health(), records=falling, requested=None)
    assert found.ttft_drift == pytest.approx(40.95 / 100.95)
    assert found.verdict is Trust.SUSPECT
    steady = judge(health(), records=ttfts(900, *[100 + i % 7 for i in range(40)]), requested=None)
    assert (steady.ttft_drift, steady.verdict) == (None, Trust.VALID)


def test_the_worst_process_counts() -> None:
    found = judge(health(), health(loop_lag_s=0.03, receive_lag_s=None, num_receive_stamps=0))
    assert (found.loop_lag_p99_ms, found.receive_lag_p99_ms, found.num_receive_stamps) == (30.0, 0.2, 500)


def test_a_point_without_a_trace_of_the_client_has_no_verdict() -> None:
    assert (
        assess([make_record()], [], requested=1, achieved=None, are_prompts_unique=True, keeps_connections=True) is None
    )


def test_a_run_is_as_good_as_its_worst_point() -> None:
    good, bad = judge(health()), judge(health(cpu_s=9.9))
    run = worst_of([("a c=1", good), ("a c=2", bad)])
    assert run is not None
    assert run.verdict is Trust.INVALID
    assert run.reasons == ("a c=2: client CPU 0.99 of a core, above 0.95 of a core: share the load with --workers",)
    assert worst_of([]) is None
