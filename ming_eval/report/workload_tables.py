"""Tables of a sweep besides the main one: media and speech, turns of conversations, passes over the points."""

from __future__ import annotations

from collections.abc import Sequence

from ming_eval.metrics.prometheus import Energy, ServerView
from ming_eval.metrics.stats import Interval
from ming_eval.report.grid import FEWEST_LOOKS, MISSING, Grid, number, pair, percent
from ming_eval.report.scaling import curves
from ming_eval.results import Pass, Point, Summary
from ming_eval.types import Task

_PASS_FIGURES = (  # title, name in `pass_intervals`
    ("tok/s", "output_tokens_per_s"),
    ("req/s", "requests_per_s"),
    ("TTFT mean", "ttft_ms.mean"),
    ("TPOT mean", "tpot_ms.mean"),
    ("E2E p50", "e2e_ms.p50"),
)


def workload_tables(summary: Summary) -> list[tuple[str, str, Grid]]:
    """Title, explanation and table of each that the run has something for."""
    found = (
        (
            "Media and speech",
            "upload: sent to the last byte taken by the kernel. TTFA: sent to the first samples of speech. RTF: time "
            "until the last samples per second of speech, from sending; RTF_gen: from the first samples. Pre-buffer: "
            "the shortest wait before playing with which a listener hears no stall; stalls are those without a wait.",
            modality_grid(summary),
        ),
        (
            "Both sides",
            "What the client saw of each point beside what the server said of itself (GET /metrics, looked at now and "
            "then while requests were out) and the GPUs of this host (NVML). Looks: how many while requests "
            f"were out; what rests on fewer than {FEWEST_LOOKS} is left out. Requests in flight; prefix hits: prompt "
            "tokens in its cache. Cached by usage: of all prompt tokens, the chat template and later turns of "
            "conversations included; the warning of a warm prefix cache leaves both out.",
            both_sides_grid(summary),
        ),
        ("Turns", "The requests of all conversations by their place in them.", turns_grid(summary)),
        ("Passes", "Each figure with its 95 % interval (Student's t) over the passes.", passes_grid(summary)),
    )
    return [(title, text, grid) for title, text, grid in found if grid.rows]


def modality_grid(summary: Summary) -> Grid:
    """One row per point that sends media or speaks."""
    header = ["backend", "task", "load", "KB / request", "upload p50 / p99", "TTFA p50 / p99"]
    header += ["RTF p50 / p99", "RTF_gen p50", "speech s", "stalls", "stalled s", "pre-buffer p50 / p99"]
    points = [point for each in curves(summary).values() for point in each if point.task != Task.T2T]
    return Grid(header, [_modality_row(point) for point in points], num_labels=3)


def _modality_row(point: Point) -> list[str]:
    size = None if point.request_bytes is None else point.request_bytes / 1000
    row = [point.backend, point.task, _load(point), number(size), pair(point.upload_ms.p50, point.upload_ms.p99)]
    speech = point.speech
    if speech is None:
        return [*row, *[MISSING] * 7]
    return [
        *row,
        pair(speech.ttfa_ms.p50, speech.ttfa_ms.p99),
        pair(speech.rtf.p50, speech.rtf.p99),
        number(speech.rtf_gen.p50),
        number(speech.audio_s),
        str(speech.stalls),
        number(speech.stalled_s),
        pair(speech.prebuffer_ms.p50, speech.prebuffer_ms.p99),
    ]


def both_sides_grid(summary: Summary) -> Grid:
    """One row per point of which the server or a GPU said something."""
    points = [point for each in curves(summary).values() for point in each if point.server or point.energy]
    header = [
        "backend",
        "load",
        "client mean / max",
        "looks",
        "running mean / max",
        "waiting mean / max",
        "KV used",
        "prefix hits",
    ]
    header += ["cached by usage", "preemptions", "GPU W", "GPU busy", "J / token"]
    rows = [_both_sides(point) for point in points]
    if any(point.server is not None and point.server.distinct_experts is not None for point in points):
        header.append("experts of uniform")
        rows = [[*row, _experts(point)] for row, point in zip(rows, points, strict=True)]
    return Grid(header, rows, num_labels=2)


def _experts(point: Point) -> str:
    """Distinct experts of a decode step, their share of what uniform routing would touch, and of how many steps."""
    server = point.server
    if server is None or server.distinct_experts is None:
        return MISSING
    figures, steps = f"{number(server.distinct_experts)}, {percent(server.expert_share)}", server.num_expert_looks
    if steps is None:
        return figures
    return f"{figures if steps >= FEWEST_LOOKS else MISSING} ({steps:.0f} steps)"


def _both_sides(point: Point) -> list[str]:
    achieved, server, energy = point.achieved_concurrency, point.server, point.energy
    cached = (
        point.cached_tokens / point.prompt_tokens if point.cached_tokens is not None and point.prompt_tokens else None
    )
    return [
        point.backend,
        point.load_name,
        pair(achieved.mean, achieved.max),
        _looks(server, energy),
        *_gauges(server),
        percent(None if server is None else server.prefix_hit_share),
        percent(cached),
        MISSING if server is None or server.preemptions is None else f"{server.preemptions:.0f}",
        *_gpus(energy),
    ]


def _looks(server: ServerView | None, energy: Energy | None) -> str:
    """How many; the server and the GPUs are looked at together, but a server may not answer."""
    counts = [each.num_samples for each in (server, energy) if each is not None and each.num_samples is not None]
    return " / ".join(map(str, dict.fromkeys(counts))) or MISSING


def _gauges(server: ServerView | None) -> list[str]:
    """Running, waiting and KV cache used."""
    if server is None or server.num_samples < FEWEST_LOOKS:
        return [MISSING] * 3
    running, waiting = pair(server.running_mean, server.running_max), pair(server.waiting_mean, server.waiting_max)
    return [running, waiting, percent(server.kv_used_max)]


def _gpus(energy: Energy | None) -> list[str]:
    """Watts, use and joules per token; what the GPUs count themselves does not rest on looks."""
    if energy is None:
        return [MISSING] * 3
    is_seen = energy.num_samples is None or energy.num_samples >= FEWEST_LOOKS
    is_counted = is_seen or energy.joules is not None
    return [
        number(energy.power_w if is_counted else None),
        percent(energy.busy if is_seen else None),
        number(energy.joules_per_token if is_counted else None),
    ]


def turns_grid(summary: Summary) -> Grid:
    """One row per turn of each point."""
    header = ["backend", "load", "turn", "requests", "failed", "prompt tokens", "from cache", "TTFT p50 / p95"]
    header += ["TPOT", "E2E p50 / p95"]
    rows = [
        [
            point.backend,
            point.load_name,
            str(turn.turn),
            str(turn.requests),
            str(turn.failed),
            number(turn.prompt_tokens),
            percent(turn.cached_share),
            pair(turn.ttft_ms.p50, turn.ttft_ms.p95),
            number(turn.tpot_ms.mean),
            pair(turn.e2e_ms.p50, turn.e2e_ms.p95),
        ]
        for points in curves(summary).values()
        for point in points
        for turn in point.turns
    ]
    return Grid(header, rows, num_labels=2)


def passes_grid(summary: Summary) -> Grid:
    """One row per point that was visited several times."""
    header = ["backend", "load", "passes", *(title for title, _ in _PASS_FIGURES)]
    points = [point for each in curves(summary).values() for point in each if len(point.passes) > 1]
    rows = [
        [
            point.backend,
            point.load_name,
            str(len(point.passes)),
            *(_over_passes(point, name) for _, name in _PASS_FIGURES),
        ]
        for point in points
    ]
    return Grid(header, rows, num_labels=2)


def _over_passes(point: Point, name: str) -> str:
    return _with_interval(_mean(point.passes, name), point.pass_intervals.get(name))


def _mean(passes: Sequence[Pass], name: str) -> float | None:
    values = [_read(each, name) for each in passes]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _read(each: Pass, name: str) -> float | None:
    field, _, figure = name.partition(".")
    value = getattr(each, field)
    found: float | None = getattr(value, figure) if figure else value
    return found


def _with_interval(value: float | None, interval: Interval | None) -> str:
    if interval is None:
        return number(value)
    return f"{number(value)} ({number(interval.low)} to {number(interval.high)})"


def _load(point: Point) -> str:
    return point.load_name.split()[-1]
