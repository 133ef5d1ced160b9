"""Records, points and summaries with the values that a test is about; the rest is plain."""

from __future__ import annotations

from typing import Any

import msgspec

from ming_eval.load.plan import LoadPlan
from ming_eval.manifest import Host, Manifest
from ming_eval.results import Achieved, Backend, Distribution, Point, Summary, Verdict
from ming_eval.types import RequestRecord, Task, TokenSource


def make_record(**values: Any) -> RequestRecord:
    """A good request of 4 tokens: sent at 0, first output at 0.1, then one token each 0.02 s."""
    sent_s = values.pop("sent_s", 0.0)
    times_s = tuple(sent_s + 0.1 + 0.02 * i for i in range(4))
    plain: dict[str, Any] = {
        "id": "c1-0",
        "backend": "a",
        "task": Task.T2T,
        "concurrency": 1,
        "warmup": False,
        "index": 0,
        "intended_s": None,
        "sent_s": sent_s,
        "first_byte_s": times_s[0],
        "first_output_s": times_s[0],
        "first_content_s": times_s[0],
        "first_audio_s": None,
        "last_output_s": times_s[-1],
        "done_s": times_s[-1],
        "output_times_s": times_s,
        "output_event_tokens": (1, 1, 1, 1),
        "num_first_event_tokens": 1,
        "num_output_tokens": 4,
        "num_prompt_tokens": 10,
        "num_cached_tokens": 0,
        "token_source": TokenSource.USAGE,
        "finish_reason": "length",
        "failure": None,
        "http_status": 200,
        "error": None,
        "num_request_bytes": 300,
        "num_text_chars": 16,
        "slot": 0,
    }
    return RequestRecord(**(plain | values))


def make_plan(**values: Any) -> LoadPlan:
    """One point at concurrency 1."""
    plain: dict[str, Any] = {
        "profile": "chat",
        "prompts": "chat",
        "concurrencies": (1,),
        "requests": None,
        "max_tokens": 64,
        "ignore_eos": True,
        "warmup_waves": 1,
        "seed": 0,
        "max_error_rate": 0.05,
    }
    return LoadPlan(**(plain | values))


def as_stored(plan: LoadPlan) -> dict[str, Any]:
    """The settings as they come back from a file: JSON knows no tuples and no enumerations."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan))
    return found


def make_backend(name: str = "a", **values: Any) -> Backend:
    """A server somewhere."""
    plain: dict[str, Any] = {
        "url": "http://localhost:8000/v1",
        "dialect": "vllm",
        "model": "some-model",
        "version": "1.2",
        "launched": False,
    }
    return Backend(name=name, **(plain | values))


def make_manifest(plan: LoadPlan, *backends: Backend) -> Manifest:
    """The manifest of a sweep that has not ended."""
    return Manifest(
        run="20260615T101500Z-sweep-a",
        command=("ming-eval", "sweep", "--backend", "a=http://localhost:8000"),
        started="2026-06-15T10:15:00.000Z",
        finished=None,
        seed=plan.seed,
        settings=as_stored(plan),
        backends=backends or (make_backend(),),
        versions={"python": "3.11.7"},
        git=None,
        host=Host("Linux", "x86_64", "CPython 3.11.7", "Some CPU", 8, 2, 2**34, ()),
    )


def make_point(concurrency: int = 1, output_tokens_per_s: float | None = 100.0, **values: Any) -> Point:
    """A point without failures; all its latencies are one distribution of 100 to 120 ms."""
    flat = Distribution(count=100, mean=105.0, p50=100.0, p95=110.0, p99=115.0, min=90.0, max=120.0)
    plain: dict[str, Any] = {
        "backend": "a",
        "task": "T2T",
        "planned": 100,
        "requests": 100,
        "failed": 0,
        "failures": {},
        "error_rate": 0.0,
        "warmup_requests": concurrency,
        "warmup_failed": 0,
        "started_s": 0.0,
        "wall_s": 64.0,
        "prompt_tokens": 1000,
        "cached_tokens": 0,
        "output_tokens": 6400,
        "token_source": TokenSource.USAGE,
        "tokens_per_event": 1.0,
        "finish_reasons": {"length": 100},
        "requests_per_s": 1.5,
        "steady": None,
        "steady_reason": "too short",
        "achieved_concurrency": Achieved(float(concurrency), concurrency),
        "reconnections": 0,
    }
    latencies = ("ttft_ms", "ttfc_ms", "tpot_ms", "itl_ms", "icl_ms", "e2e_ms", "send_lag_ms", "stream_end_lag_ms")
    plain |= dict.fromkeys(latencies, flat)
    return Point(concurrency=concurrency, output_tokens_per_s=output_tokens_per_s, **(plain | values))


def make_summary(*points: Point, **values: Any) -> Summary:
    """A finished run of these points."""
    plan = make_plan(concurrencies=tuple(sorted({point.concurrency for point in points})))
    names = dict.fromkeys(point.backend for point in points)
    requests, failed = sum(point.requests for point in points), sum(point.failed for point in points)
    plain: dict[str, Any] = {
        "run": "20260615T101500Z-sweep-a",
        "command": ("ming-eval", "sweep"),
        "started": "2026-06-15T10:15:00.000Z",
        "finished": "2026-06-15T10:16:00.000Z",
        "seed": 0,
        "partial": False,
        "verdict": Verdict("complete", 0),
        "max_error_rate": 0.05,
        "settings": as_stored(plan),
        "backends": tuple(make_backend(name) for name in names),
        "requests": requests,
        "failed": failed,
        "error_rate": failed / requests if requests else None,
        "points": points,
    }
    return Summary(**(plain | values))
