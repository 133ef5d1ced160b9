"""What servers publish of themselves, by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ming_eval.metrics.prometheus import Energy, energy, parse_sample, server_view
from ming_eval.types import GpuSample, Phase, ServerSample

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} 0.25
vllm:prefix_cache_queries_total{engine="0"} 1.2e+03
vllm:prefix_cache_hits_total{engine="0"} 300.0
"""


def test_series_are_added_up_and_shares_averaged() -> None:
    assert parse_sample(VLLM, 5.0) == ServerSample(
        time_s=5.0, running=7.0, waiting=2.0, kv_used=0.375, prefix_hits=300.0, prefix_queries=1200.0
    )


def test_other_servers_have_other_names() -> None:
    sglang = parse_sample('sglang:num_running_reqs{model_name="m"} 2\nsglang:token_usage{a="b"} 0.1\n', 0.0)
    assert sglang == ServerSample(time_s=0.0, running=2.0, kv_used=0.1)
    cold = 'sglang:prompt_tokens_total{is_streaming="true"} 60\nsglang:num_retracted_requests_total{a="b"} 2\n'
    assert parse_sample(cold, 0.0) == ServerSample(time_s=0.0, prefix_hits=0.0, prefix_queries=60.0, preemptions=2.0)
    tiers = 'sglang:cached_tokens_total{cache_source="device"} 30\nsglang:cached_tokens_total{cache_source="host"} 4\n'
    warm = parse_sample(cold + tiers, 0.0)
    assert warm is not None
    assert (warm.prefix_hits, warm.prefix_queries) == (34.0, 60.0)
    llamacpp = parse_sample("llamacpp:prompt_tokens_total 71\nllamacpp:prompt_tokens_cached_total 168\n", 0.0)
    assert llamacpp == ServerSample(time_s=0.0, prefix_hits=168.0, prefix_queries=239.0)
    assert parse_sample("process_cpu_seconds_total 3.5\n", 0.0) is None


def phase(samples: Iterable[ServerSample], *, started_s: float = 0.0, ended_s: float = 100.0) -> Phase:
    return Phase(
        backend="a",
        concurrency=4,
        rate_per_s=None,
        started_s=started_s,
        ended_s=ended_s,
        complete=True,
        server=tuple(samples),
    )


def test_view_by_hand() -> None:
    """Running 4 and 2 at 2 and 4 s, idle before and after: 3 on average. Of 100 new queries 25 hit."""
    samples = [
        ServerSample(
            time_s=2.0 * i, running=running, waiting=i, kv_used=0.1 * i, prefix_hits=hits, prefix_queries=asked
        )
        for i, (running, hits, asked) in enumerate([(0, 50, 900), (4, 60, 950), (2, 70, 980), (0, 75, 1000)])
    ]
    view = server_view([phase(samples, started_s=0.5, ended_s=5.5)])
    assert view is not None
    assert view.running_mean == pytest.approx(3.0)
    assert (view.running_max, view.waiting_max, view.kv_used_max) == (4, 2, pytest.approx(0.2))
    assert (view.prefix_hit_share, view.prefix_queries) == (0.25, 100.0)
    assert (view.preemptions, view.num_samples) == (None, 2)


def test_experts_are_a_mean_over_the_steps_looked_at() -> None:
    """Of 3 + 2 new looks: 310 distinct experts, 400 of uniform routing."""
    page = """ming:moe_sampled_steps_total{model_name="m"} %d
ming:moe_distinct_experts_total{model_name="m"} %d
ming:moe_uniform_experts_total{model_name="m"} %d
"""
    samples = [parse_sample(page % counts, i) for i, counts in enumerate([(5, 90, 100), (8, 250, 340), (10, 400, 500)])]
    view = server_view([phase(sample for sample in samples if sample is not None)])
    assert view is not None
    assert (view.distinct_experts, view.expert_share, view.num_expert_looks) == (62.0, 0.775, 5.0)


def test_a_point_too_short_for_a_look_has_no_gauges_rather_than_those_of_an_idle_server() -> None:
    samples = [ServerSample(time_s=t, running=0.0, kv_used=0.0, preemptions=t) for t in (1.0, 3.0)]
    view = server_view([phase(samples, started_s=1.1, ended_s=2.9)])
    assert view is not None
    assert (view.running_mean, view.running_max, view.kv_used_max, view.num_samples) == (None, None, None, 0)
    assert view.preemptions == 2.0


def test_a_counter_that_starts_again_was_restarted() -> None:
    samples = [ServerSample(time_s=i, preemptions=count) for i, count in enumerate((10.0, 12.0, 1.0))]
    view = server_view([phase(samples)])
    assert view is not None
    assert view.preemptions == 3.0


def test_no_samples_no_view() -> None:
    assert server_view([phase(()), phase(())]) is None
    assert energy([phase(())], 1.0, 1) is None


def test_energy_per_token() -> None:
    """300 W on average for 10 s and 1,500 tokens: 2 J each."""
    counted = energy([on_gpus(GpuSample(0.0, 200.0, 0.5, 10.0), GpuSample(2.0, 400.0, 1.0, 310.0))], 10.0, 1500)
    assert counted == Energy(150.0, 0.75, 0.2, 300.0, 2)  # by the GPUs' own counters
    found = energy([on_gpus(GpuSample(0.0, 200.0, 0.5), GpuSample(1.0, 400.0, 1.0))], 10.0, 1500)
    assert found == Energy(300.0, 0.75, 2.0, None, 2)


def test_gpus_are_as_busy_as_they_were_while_requests_were_out() -> None:
    """Idle before and after; 1 s at full use, 4 s that fall to half: (1 x 1 + 4 x 0.75) / 5, and watts likewise."""
    looks = [(0.0, 60.0, 0.0), (0.2, 700.0, 1.0), (0.6, 700.0, 1.0), (1.2, 700.0, 1.0), (5.2, 350.0, 0.5)]
    samples = [GpuSample(*look) for look in [*looks, (5.4, 60.0, 0.0)]]
    found = energy([on_gpus(*samples, started_s=0.1, ended_s=5.3)], 5.0, 3080)
    assert found is not None
    assert (found.busy, found.power_w, found.joules_per_token) == pytest.approx((0.8, 560.0, 560 * 5 / 3080))
    assert found.num_samples == 4
    short = energy([on_gpus(*samples[:3], started_s=0.1, ended_s=0.3)], 0.2, 100)
    assert short == Energy(None, None, None, None, 1)  # one look is no mean


def on_gpus(*samples: GpuSample, started_s: float = 0.0, ended_s: float = 100.0) -> Phase:
    return replace(phase((), started_s=started_s, ended_s=ended_s), gpus=samples)
