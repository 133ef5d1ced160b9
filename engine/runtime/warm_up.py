"""The first steps of an engine, before any request: kernels are compiled for the sizes that steps come in.

A kernel is compiled when it is first launched for a class of sizes, which takes up to seconds; captured decode steps
have done so when they were captured, all others would do it in front of a user. Compiled kernels are kept on disk: from
the second start on this takes about a second. For the first start there is `rehearse`: the same launches before that,
of as few layers as have all kernels among them, compiled on all cores and not run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch

from engine.core.request import Chunk, GenerationRequest, SamplingParams, Step
from engine.errors import ConfigError
from engine.kernels.compile_ahead import compiling_ahead
from engine.kernels.paths import Paths
from engine.kernels.triton_support import cdiv
from engine.runtime.model_runner import ModelRunner

log = logging.getLogger(__name__)

# One prompt in each class of tile sizes (`kernels.fused_moe`, `kernels.gate`).
PROMPTS = (8, 24, 56, 200, 1500, 4000)
# Beside a prompt of so many tokens, decodes in each class of shares of the keys (`kernels.decode_attention`).
BESIDE, DECODES = 40, (1, 2, 3, 6, 12, 24, 48, 96)
_PLAIN = SamplingParams(2, temperature=1.0, seed=0)
_FILTERED = SamplingParams(2, temperature=1.0, top_k=20, top_p=0.9, min_p=0.01, seed=0)


@dataclass(frozen=True, slots=True)
class WarmStep:
    """New requests of one step: their prompts' lengths, and how they draw. A prompt of one token is a decode's row."""

    prompts: tuple[int, ...]
    sampling: SamplingParams = _PLAIN

    @property
    def num_tokens(self) -> int:
        return sum(self.prompts)


def rehearse(
    runner: ModelRunner, sizes: Sequence[int], paths: Paths, steps: Sequence[WarmStep], num_threads: int
) -> None:
    """Compile on `num_threads` what decode steps of `sizes` sequences by `paths` and the packed `steps` launch.

    Every rank does the same: sums of long steps over ranks are the library's, and take place.
    """
    decodes, packed = runner.make_graphs(sizes, paths)
    request_ids, step_ids = count(-1, -1), count(-1, -1)
    with compiling_ahead(num_threads), runner.model.model.of_each_kind():
        decodes.rehearse()
        packed.rehearse()
        for step in steps:
            _run(runner, step, [next(request_ids) for _ in step.prompts], step_ids, sample=False)


def warm_up(runner: ModelRunner, steps: Sequence[WarmStep]) -> None:
    """Run `steps`; afterwards the runner holds no request. Every rank does the same.

    Blocks of the cache are written, before anybody owns one.

    Raises:
        ConfigError: such a step does not fit into the memory that the cache leaves.
    """
    started = time.perf_counter()
    request_ids, step_ids = count(-1, -1), count(-1, -1)  # requests of the server have positive ones
    for step in steps:
        _run(runner, step, [next(request_ids) for _ in step.prompts], step_ids, sample=True)
    log.info("ran %d steps of other sizes in %.1f s", len(steps), time.perf_counter() - started)


def fitting(
    num_blocks: int, block_size: int, most_tokens: int, max_model_len: int, most_requests: int
) -> Iterator[WarmStep]:
    """A step of each kind that an engine of these limits can make."""
    longest = min(most_tokens, max_model_len)
    found = [WarmStep((n,)) for n in PROMPTS if n <= longest]
    found += [WarmStep((BESIDE,) + (1,) * n) for n in DECODES if longest >= BESIDE]
    found.append(WarmStep((min(PROMPTS[0], longest),), _FILTERED))
    for step in found:
        blocks = sum(cdiv(n, block_size) for n in step.prompts)  # each request has its own
        if step.num_tokens <= most_tokens and len(step.prompts) <= most_requests and blocks <= num_blocks:
            yield step


def _run(runner: ModelRunner, step: WarmStep, ids: Sequence[int], step_ids: Iterator[int], *, sample: bool) -> None:
    """One step, with `sample` a token of each request, and the step that forgets its requests.

    Raises:
        ConfigError: there is no memory for it.
    """
    new, chunks, block = [], [], 0
    for request_id, length in zip(ids, step.prompts, strict=True):
        blocks = cdiv(length, runner.block_size)
        prompt = tuple(i % runner.vocab_size for i in range(length))
        new.append(GenerationRequest(request_id, prompt, step.sampling))
        chunks.append(Chunk(request_id, 0, length, 0, tuple(range(block, block + blocks)), sample=sample))
        block += blocks
    try:
        runner.finish(runner.launch(Step(next(step_ids), tuple(new), tuple(chunks))))
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the cache leaves no memory for a step of {step.num_tokens} tokens: lower --memory-fraction, "
            "--kv-tokens or --step-tokens"
        ) from error
    runner.finish(runner.launch(Step(next(step_ids), (), (), dropped=tuple(ids))))
