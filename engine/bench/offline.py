"""Timed runs of the engine's loop: scheduler, model and sampler, as a server would drive them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, GenerationRequest, SamplingParams
from engine.runtime.build import LoadedEngine


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """One batch size. `decode_tok_s` is batch * (n - 1) / (time for n tokens - time for 1).

    `distinct_experts` is None where no decode step of the whole batch was seen, or the model has no experts.
    """

    batch: int
    decode_tok_s: float
    output_tok_s: float
    first_token_s: float
    distinct_experts: float | None
    failed: int


@dataclass(frozen=True, slots=True)
class PrefillRate:
    """`batch` prompts of `tokens` each, to the first token of the last one; `step_tokens` None: as configured."""

    batch: int
    tokens: int
    seconds: float
    tok_s: float
    step_tokens: int | None = None


class Offline:
    """Random prompts through one engine; ids are never used twice, so the prefix cache finds nothing."""

    def __init__(self, loaded: LoadedEngine, loop: EngineLoop, *, repeats: int, seed: int = 0) -> None:
        self._loaded = loaded
        self._loop = loop
        self._repeats = repeats
        self._random = random.Random(seed)
        self._next_id = 0

    def decode(self, batch: int, prompt_tokens: int, output_tokens: int) -> DecodeRate:
        """The rate at one batch size: median of the repeats, after a run of which only the experts count."""
        distinct = self.distinct_experts(batch, prompt_tokens, output_tokens)
        whole, first, failed = [], [], 0
        for _ in range(self._repeats):
            seconds, lost = self._seconds(batch, prompt_tokens, 1)
            first.append(seconds)
            failed += lost
            seconds, lost = self._seconds(batch, prompt_tokens, output_tokens)
            whole.append(seconds)
            failed += lost
        t1, tn = statistics.median(first), statistics.median(whole)
        return DecodeRate(
            batch,
            batch * (output_tokens - 1) / (tn - t1),
            batch * output_tokens / tn,
            t1,
            distinct,
            failed,
        )

    def prefill(self, batch: int, tokens: int, step_tokens: int | None = None) -> PrefillRate:
        """Prompt tokens a second, in steps of at most `step_tokens` from here on."""
        if step_tokens is not None:
            self._loop.set_step_tokens(step_tokens)
        self._seconds(batch, tokens, 1)
        seconds = statistics.median(self._seconds(batch, tokens, 1)[0] for _ in range(self._repeats))
        return PrefillRate(batch, tokens, seconds, batch * tokens / seconds, step_tokens)

    def distinct_experts(self, batch: int, prompt_tokens: int, output_tokens: int) -> float | None:
        """Experts that a decode step of `batch` sequences touches in a layer, mean over layers and all such steps."""
        with self._loaded.runner.expert_looks.every_step() as seen:
            self._seconds(batch, prompt_tokens, output_tokens)
        return statistics.fmean(seen[batch]) if batch in seen else None

    def run(self, batch: int, prompt_tokens: int, output_tokens: int) -> None:
        """Untimed work, for a profile."""
        self._seconds(batch, prompt_tokens, output_tokens)

    def _seconds(self, batch: int, prompt_tokens: int, output_tokens: int) -> tuple[float, int]:
        """Wall time of `batch` requests submitted at once, and how many of them did not end well."""
        for request in self._requests(batch, prompt_tokens, output_tokens):
            self._loop.submit(request)
        started = time.perf_counter()
        finished: list[FinishReason] = []
        while self._loop.has_work:
            finished += [output.finish for output in self._loop.run_once() if output.finish]
        return time.perf_counter() - started, sum(reason is not FinishReason.LENGTH for reason in finished)

    def _requests(self, batch: int, prompt_tokens: int, output_tokens: int) -> list[GenerationRequest]:
        vocabulary = min(self._loaded.info.vocab_size, 150_000)  # control tokens stand at the end
        found = []
        for _ in range(batch):
            self._next_id += 1
            ids = tuple(self._random.choices(range(vocabulary), k=prompt_tokens))
            sampling = SamplingParams(output_tokens, temperature=1.0, seed=self._next_id)
            found.append(GenerationRequest(self._next_id, ids, sampling))
        return found


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """`8x3500,1x1024` -> batch and tokens.

    Raises:
        ValueError: it is not of that form.
    """
    shapes: list[tuple[int, int]] = []
    for part in filter(None, text.split(",")):
        batch, _, tokens = part.partition("x")
        shapes.append((int(batch), int(tokens)))
    if any(min(shape) < 1 for shape in shapes):
        raise ValueError(text)
    return shapes


def parse_batches(text: str) -> Sequence[int]:
    """`1,8,64`.

    Raises:
        ValueError: it is not of that form.
    """
    batches = [int(part) for part in text.split(",")]
    if any(batch < 1 for batch in batches):
        raise ValueError(text)
    return batches
