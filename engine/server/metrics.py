"""Prometheus text: the scheduler's gauges and counters, and histograms of what the server saw of each request."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from engine.core.request import EngineStats, FinishReason
from engine.core.speech import SpeechStats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)

Sample = tuple[str, str, float]  # suffix of the name, label, value


class Histogram:
    """Counts of values at or below fixed bounds."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help_text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def samples(self) -> Iterator[Sample]:
        total = 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield "_bucket", f'le="{bound}"', total
        yield "_sum", "", self._sum
        yield "_count", "", total


class Metrics:
    """What `/metrics` shows beside the scheduler's own figures. All times are seconds."""

    def __init__(self) -> None:
        self.ttft = Histogram("time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self.itl = Histogram("inter_token_latency_seconds", "Between two tokens of a sequence.", _SECONDS)
        self.tpot = Histogram("request_time_per_output_token_seconds", "Mean time per token after the first.", _SECONDS)
        self.e2e = Histogram("e2e_request_latency_seconds", "From arrival to the end.", _SECONDS)
        self.queue = Histogram("request_queue_time_seconds", "From submission to the first step.", _SECONDS)
        self.prefill = Histogram("request_prefill_time_seconds", "From the first step to the first token.", _SECONDS)
        self.decode = Histogram("request_decode_time_seconds", "From the first token to the last.", _SECONDS)
        self.prompt_tokens = Histogram("request_prompt_tokens", "Prompt tokens of a sequence.", _TOKENS)
        self.generation_tokens = Histogram("request_generation_tokens", "Generated tokens of a sequence.", _TOKENS)
        self.finished = Counter(dict.fromkeys(FinishReason, 0))
        self.rejected: Counter[str] = Counter()  # by error code, which no client chooses
        self.media_fetches: Counter[str] = Counter()  # by outcome: ok, cancelled, or an error code

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        latencies = (self.ttft, self.itl, self.tpot, self.e2e)
        return (*latencies, self.queue, self.prefill, self.decode, self.prompt_tokens, self.generation_tokens)

    def render(
        self, stats: EngineStats, model_name: str, prefixes: Sequence[str], speech: SpeechStats | None = None
    ) -> str:
        """The exposition text, once under each of `prefixes`; `speech` where there is a talker."""
        namers = [_Namer(prefix, model_name) for prefix in prefixes]
        lines = (line for namer in namers for line in self._lines(stats, namer))
        spoken = (line for namer in namers for line in ([] if speech is None else _speech_lines(speech, namer)))
        return "".join((*lines, *spoken))

    def _lines(self, stats: EngineStats, namer: _Namer) -> Iterator[str]:
        for name, value, help_text in _gauges(stats):
            yield from namer.family(name, "gauge", help_text, [("", "", value)])
        for name, value, help_text in _counters(stats):
            yield from namer.family(name, "counter", help_text, [("", "", value)])
        finished = [("", f'finished_reason="{reason}"', float(count)) for reason, count in self.finished.items()]
        yield from namer.family("request_success_total", "counter", "Sequences that ended, by reason.", finished)
        rejected = [("", f'reason="{code}"', float(count)) for code, count in sorted(self.rejected.items())]
        yield from namer.family("http_requests_rejected_total", "counter", "Error answers, by code.", rejected)
        fetched = [("", f'outcome="{outcome}"', float(count)) for outcome, count in sorted(self.media_fetches.items())]
        yield from namer.family("media_fetch_total", "counter", "Media URLs asked for, by outcome.", fetched)
        for histogram in self.histograms:
            yield from namer.family(histogram.name, "histogram", histogram.help, histogram.samples())


class SequenceTimer:
    """Feeds the histograms with one sequence. `arrived_s` and `clock` are of one clock, in seconds."""

    def __init__(self, metrics: Metrics, arrived_s: float, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._arrived_s = arrived_s
        self._clock = clock
        self._first_s: float | None = None
        self._last_s = arrived_s
        self._num_later = 0  # tokens after those of the first output
        self._queue_s: float | None = None
        self._prefill_s: float | None = None

    def note_tokens(self, count: int) -> None:
        """`count` tokens came at once: the gap before them is shared among them."""
        now_s = self._clock()
        if self._first_s is None:
            self._first_s = now_s
            self._metrics.ttft.observe(now_s - self._arrived_s)
        else:
            self._metrics.itl.observe((now_s - self._last_s) / count, times=count)
            self._num_later += count
        self._last_s = now_s

    def finish(self, reason: FinishReason, num_prompt: int, num_generated: int) -> None:
        """The sequence ended; one that failed or was given up counts, but has no latencies."""
        metrics = self._metrics
        metrics.finished[reason] += 1
        if reason in (FinishReason.ABORT, FinishReason.ERROR):
            return
        metrics.prompt_tokens.observe(num_prompt)
        metrics.generation_tokens.observe(num_generated)
        metrics.e2e.observe(self._clock() - self._arrived_s)
        if self._queue_s is not None:
            metrics.queue.observe(self._queue_s)
        if self._prefill_s is not None:
            metrics.prefill.observe(self._prefill_s)
        if self._first_s is not None:
            metrics.decode.observe(self._last_s - self._first_s)
            if self._num_later:
                metrics.tpot.observe((self._last_s - self._first_s) / self._num_later)

    def note_engine_times(self, queue_s: float, prefill_s: float | None) -> None:
        """What the engine itself measured; it may say so more than once."""
        self._queue_s, self._prefill_s = queue_s, prefill_s


class _Namer:
    """Writes families of samples under one prefix and model name."""

    def __init__(self, prefix: str, model_name: str) -> None:
        self._prefix = prefix
        self._label = f'model_name="{_escape(model_name)}"'

    def family(self, name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> Iterator[str]:
        full = self._prefix + name
        yield f"# HELP {full} {help_text}\n# TYPE {full} {kind}\n"
        for suffix, label, value in samples:
            labels = f"{self._label},{label}" if label else self._label
            yield f"{full}{suffix}{{{labels}}} {_number(value)}\n"


def _gauges(stats: EngineStats) -> Iterator[tuple[str, float, str]]:
    used = 1 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0
    yield "num_requests_running", stats.num_running, "Sequences being computed."
    yield "num_requests_waiting", stats.num_waiting, "Sequences in the queue."
    yield "kv_cache_usage_perc", used, "Used share of the key/value cache, 0 to 1."


def _counters(stats: EngineStats) -> Iterator[tuple[str, float, str]]:
    yield "prompt_tokens_total", stats.prompt_tokens, "Prompt tokens processed."
    yield "generation_tokens_total", stats.generation_tokens, "Tokens generated."
    yield "prefix_cache_queries_total", stats.prefix_queries, "Prompt tokens looked up in the prefix cache."
    yield "prefix_cache_hits_total", stats.prefix_hits, "Prompt tokens found in the prefix cache."
    yield "num_preemptions_total", stats.preemptions, "Sequences that had to start over."
    yield "moe_sampled_steps_total", stats.expert_looks, "Decode steps whose choice of experts was looked at."
    yield "moe_distinct_experts_total", stats.distinct_experts, "Their distinct experts, mean over layers, added up."
    yield "moe_uniform_experts_total", stats.uniform_experts, "What uniform routing would have touched, added up."


def _speech_lines(stats: SpeechStats, namer: _Namer) -> Iterator[str]:
    for name, value, help_text in (
        ("num_speech_open", stats.num_open, "Utterances that are open, waiting for their text included."),
        ("num_speech_running", stats.num_running, "Utterances being spoken."),
        ("num_speech_waiting", stats.num_waiting, "Utterances that wait for a slot."),
        ("num_speech_slots_free", stats.num_free_slots, "Utterances that could be spoken besides."),
    ):
        yield from namer.family(name, "gauge", help_text, [("", "", value)])
    for name, value, help_text in (
        ("speech_steps_total", stats.steps, "Steps of the talker."),
        ("speech_samples_total", stats.samples, "Samples given out."),
    ):
        yield from namer.family(name, "counter", help_text, [("", "", value)])


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
