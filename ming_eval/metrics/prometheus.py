"""Prometheus text of a known server -> a `ServerSample`; samples -> what they say of a point."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from ming_eval.types import GpuSample, Phase, ServerSample

S = TypeVar("S", ServerSample, GpuSample)

# Names by field, the first one found wins; of "a+b" both count, because llama.cpp's prompt tokens leave out the cached
# ones. Series of one name (one per model or engine) are added up, shares averaged.
_NAMES: dict[str, tuple[str, ...]] = {
    "running": (
        "vllm:num_requests_running",
        "sglang:num_running_reqs",
        "ming:num_requests_running",
        "llamacpp:requests_processing",
    ),
    "waiting": (
        "vllm:num_requests_waiting",
        "sglang:num_queue_reqs",
        "ming:num_requests_waiting",
        "llamacpp:requests_deferred",
    ),
    "kv_used": (
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "sglang:token_usage",
        "ming:kv_cache_usage_perc",
        "llamacpp:kv_cache_usage_ratio",
    ),
    "prefix_hits": (
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
        "sglang:cached_tokens_total",
        "ming:prefix_cache_hits_total",
        "llamacpp:prompt_tokens_cached_total",
    ),
    "prefix_queries": (
        "vllm:prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries_total",
        "sglang:prompt_tokens_total",
        "ming:prefix_cache_queries_total",
        "llamacpp:prompt_tokens_total+llamacpp:prompt_tokens_cached_total",
    ),
    "preemptions": ("vllm:num_preemptions_total", "sglang:num_retracted_requests_total", "ming:num_preemptions_total"),
    "expert_looks": ("ming:moe_sampled_steps_total",),
    "distinct_experts": ("ming:moe_distinct_experts_total",),
    "uniform_experts": ("ming:moe_uniform_experts_total",),
}
_SHARES = frozenset({"kv_used"})
# SGLang's counter is there from its first hit on, its companion from the first request on.
_NOTHING_YET = {"sglang:cached_tokens_total": "sglang:prompt_tokens_total"}
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+([-+\d.eE]+|NaN|[-+]?Inf)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """A point as the server saw it.

    What was in flight, waiting and in the cache is of the `num_samples` looks while requests were out: just before and
    after them a server is idle, which says nothing of the point. Means are over time. `prefix_hit_share` (of
    `prefix_queries` prompt tokens, whoever sent them) and `preemptions` are differences of counters from the look
    before to the look after, and so is `distinct_experts`, which a decode step of a mixture of experts touched in a
    layer, on average of the `num_expert_looks` steps that the server looked at; `expert_share` is that over what
    uniform routing would have touched.
    """

    num_samples: int
    running_mean: float | None
    running_max: float | None
    waiting_mean: float | None
    waiting_max: float | None
    kv_used_max: float | None
    prefix_hit_share: float | None
    preemptions: float | None
    distinct_experts: float | None = None
    expert_share: float | None = None
    num_expert_looks: float | None = None  # None also in results from before they were counted
    prefix_queries: float | None = None  # likewise


@dataclass(frozen=True, slots=True)
class Energy:
    """Of all GPUs of the client's host while a point ran, whatever ran on them.

    `joules` are counted by the GPUs themselves between the first and the last look, where they do; `power_w` is then
    those over that time; otherwise it is the mean over time of the `num_samples` looks while requests were out, as
    `busy` always is, and a token costs that power times the point's time. Just before and after a point GPUs are idle,
    and looks lie closer together at its beginning.
    """

    power_w: float | None
    busy: float | None
    joules_per_token: float | None
    joules: float | None = None
    num_samples: int | None = None  # None in results from before they were counted


def parse_sample(text: str, time_s: float) -> ServerSample | None:
    """What is known in a Prometheus page; None where no name is."""
    series: dict[str, list[float]] = {}
    for name, value in _LINE.findall(text):
        series.setdefault(name, []).append(float(value))
    for name, companion in _NOTHING_YET.items():
        if companion in series:
            series.setdefault(name, [0.0])
    found = {field: _value(field, series) for field in _NAMES}
    return ServerSample(time_s=time_s, **found) if any(value is not None for value in found.values()) else None


def server_view(phases: Iterable[Phase]) -> ServerView | None:
    """Samples before, during and after each phase -> one view; None without samples."""
    looked_at = [phase for phase in phases if phase.server]
    if not looked_at:
        return None
    parts = [phase.server for phase in looked_at]
    during = [_while_out(phase, phase.server) for phase in looked_at]
    every = [sample for samples in during for sample in samples]
    hits = _growth((s.prefix_hits for s in samples) for samples in parts)
    queries = _growth((s.prefix_queries for s in samples) for samples in parts)
    looks = _growth((s.expert_looks for s in samples) for samples in parts)
    distinct = _growth((s.distinct_experts for s in samples) for samples in parts)
    uniform = _growth((s.uniform_experts for s in samples) for samples in parts)
    return ServerView(
        num_samples=len(every),
        running_mean=_mean_over_time([[(s.time_s, s.running) for s in samples] for samples in during]),
        running_max=_max(sample.running for sample in every),
        waiting_mean=_mean_over_time([[(s.time_s, s.waiting) for s in samples] for samples in during]),
        waiting_max=_max(sample.waiting for sample in every),
        kv_used_max=_max(sample.kv_used for sample in every),
        prefix_hit_share=hits / queries if hits is not None and queries else None,
        preemptions=_growth((s.preemptions for s in samples) for samples in parts),
        distinct_experts=distinct / looks if distinct is not None and looks else None,
        expert_share=distinct / uniform if distinct is not None and uniform else None,
        num_expert_looks=looks,
        prefix_queries=queries,
    )


def energy(phases: Iterable[Phase], wall_s: float | None, num_tokens: int | None) -> Energy | None:
    """Mean power and use over the point, and what a token cost; None without samples."""
    looked_at = [phase for phase in phases if phase.gpus]
    if not looked_at:
        return None
    during = [_while_out(phase, phase.gpus) for phase in looked_at]
    joules = _growth((sample.energy_j for sample in phase.gpus) for phase in looked_at)
    span_s = sum(phase.gpus[-1].time_s - phase.gpus[0].time_s for phase in looked_at)
    mean_w = _mean_over_time([[(s.time_s, s.power_w) for s in samples] for samples in during])
    power_w = joules / span_s if joules is not None and span_s else mean_w
    used = joules if joules is not None else power_w * wall_s if power_w is not None and wall_s else None
    return Energy(
        power_w=power_w,
        busy=_mean_over_time([[(s.time_s, s.busy) for s in samples] for samples in during]),
        joules_per_token=used / num_tokens if used is not None and num_tokens else None,
        joules=joules,
        num_samples=sum(map(len, during)),
    )


def _value(field: str, series: dict[str, list[float]]) -> float | None:
    parts = (name.split("+") for name in _NAMES[field])
    found = next((names for names in parts if all(name in series for name in names)), None)
    if found is None:
        return None
    values = [value for name in found for value in series[name]]
    return sum(values) / len(values) if field in _SHARES else sum(values)


def _while_out(phase: Phase, samples: Sequence[S]) -> list[S]:
    """Those taken while requests were out."""
    return [sample for sample in samples if phase.started_s <= sample.time_s <= phase.ended_s]


def _mean_over_time(parts: Sequence[Sequence[tuple[float, float | None]]]) -> float | None:
    """Trapezoids between samples; None where a value is missing or no time passes."""
    area = span_s = 0.0
    for part in parts:
        for (before_s, before), (after_s, after) in pairwise(part):
            if before is None or after is None:
                return None
            area += (before + after) / 2 * (after_s - before_s)
            span_s += after_s - before_s
    return area / span_s if span_s else None


def _growth(parts: Iterable[Iterable[float | None]]) -> float | None:
    """How much a counter grew, over all parts; a server that was restarted counts from 0 again."""
    grown = None
    for part in parts:
        values = [value for value in part if value is not None]
        for before, after in pairwise(values):
            grown = (grown or 0.0) + (after - before if after >= before else after)
    return grown


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
