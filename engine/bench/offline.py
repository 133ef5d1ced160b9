"""Timed runs of the engine's loop: scheduler, model and sampler, as a server would drive them."""

from __future__ import annotations

import random
import statistics
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass

from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, GenerationRequest, Output, SamplingParams
from engine.runtime.build import LoadedEngine


@dataclass(frozen=True, slots=True)
class Look:
    """Experts that a decode step of the whole batch touches in a layer, mean over layers and all such steps; what each
    stream said. None where there was no such step, or the model has no experts."""

    distinct_experts: float | None
    tokens: list[list[int]]


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """One batch size. `decode_tok_s` is batch * (n - 1) / (time for n tokens - time for 1); the rest as in `Look`."""

    batch: int
    decode_tok_s: float
    output_tok_s: float
    first_token_s: float
    distinct_experts: float | None
    failed: int
    tokens: list[list[int]]


@dataclass(frozen=True, slots=True)
class PrefillRate:
    """`batch` prompts of `tokens` each, to the first token of the last one; `step_tokens` None: as configured."""

    batch: int
    tokens: int
    seconds: float
    tok_s: float
    step_tokens: int | None
    failed: int


class Offline:
    """Random prompts through one engine; ids are never used twice, so the prefix cache finds nothing."""

    def __init__(self, loaded: LoadedEngine, loop: EngineLoop, *, repeats: int, seed: int = 0) -> None:
        self._loaded = loaded
        self._loop = loop
        self._repeats = repeats
        self._random = random.Random(seed)
        self._next_id = 0

    def decode(self, batch: int, prompt_tokens: int, output_tokens: int) -> DecodeRate:
        """The rate at one batch size: median of the repeats, after a run of which only experts and tokens count."""
        look = self.look(batch, prompt_tokens, output_tokens)
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
            look.distinct_experts,
            failed,
            look.tokens,
        )

    def prefill(self, batch: int, tokens: int, step_tokens: int | None = None) -> PrefillRate:
        """Prompt tokens a second, in steps of at most `step_tokens` from here on."""
        if step_tokens is not None:
            self._loop.set_step_tokens(step_tokens)
        self._seconds(batch, tokens, 1)
        times, lost = zip(*(self._seconds(batch, tokens, 1) for _ in range(self._repeats)), strict=True)
        seconds = statistics.median(times)
        return PrefillRate(batch, tokens, seconds, batch * tokens / seconds, step_tokens, sum(lost))

    def look(self, batch: int, prompt_tokens: int, output_tokens: int) -> Look:
        """What the streams of a batch say, and how many experts its decode steps touch."""
        said: dict[int, list[int]] = {r.id: [] for r in self._submit(batch, prompt_tokens, output_tokens)}
        with self._loaded.runner.expert_looks.every_step() as seen:
            for output in self._run():
                said[output.request_id] += output.tokens
        return Look(statistics.fmean(seen[batch]) if batch in seen else None, list(said.values()))

    def run(self, batch: int, prompt_tokens: int, output_tokens: int) -> None:
        """Untimed work, for a profile."""
        self._seconds(batch, prompt_tokens, output_tokens)

    def _seconds(self, batch: int, prompt_tokens: int, output_tokens: int) -> tuple[float, int]:
        """Wall time of `batch` requests submitted at once, and how many of them did not end well."""
        self._submit(batch, prompt_tokens, output_tokens)
        started = time.perf_counter()
        outputs = self._run()
        seconds = time.perf_counter() - started
        return seconds, sum(output.finish not in (None, FinishReason.LENGTH) for output in outputs)

    def _submit(self, batch: int, prompt_tokens: int, output_tokens: int) -> list[GenerationRequest]:
        requests = self._requests(batch, prompt_tokens, output_tokens)
        for request in requests:
            self._loop.submit(request)
        return requests

    def _run(self) -> list[Output]:
        outputs: list[Output] = []
        while self._loop.has_work:
            outputs += self._loop.run_once()
        return outputs

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
        ArgumentTypeError: it is not of that form.
    """
    try:
        shapes = [(parse_count(batch), parse_count(tokens)) for batch, tokens in _pairs(text)]
    except (ValueError, ArgumentTypeError) as error:
        raise ArgumentTypeError(f"want prompts x tokens such as 8x3500,1x1024, got {text!r}") from error
    return shapes


def _pairs(text: str) -> list[list[str]]:
    return [part.split("x") for part in text.split(",")] if text else []


def parse_batches(text: str) -> Sequence[int]:
    """`1,8,64`.

    Raises:
        ArgumentTypeError: it is not of that form.
    """
    try:
        return [parse_count(part) for part in text.split(",")]
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"want whole numbers of at least 1 such as 1,8,64, got {text!r}") from error


def parse_count(text: str) -> int:
    """A number of something.

    Raises:
        ArgumentTypeError: it is not one, or there would be none.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"want a whole number of at least 1, got {text!r}")
    return int(text)
