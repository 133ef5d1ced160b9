"""A scheduler whose steps are worked out by hand, and what a test reads off them."""

from __future__ import annotations

from engine.core.blocks import BlockManager
from engine.core.request import Output, Sample, SchedulerLimits, Step, StepResult
from engine.core.scheduler import Scheduler

BLOCK = 4
EOS = 2
TOKEN = 9  # what the model draws unless a test says otherwise


def make_scheduler(
    *,
    step_tokens: int = 64,
    step_requests: int = 8,
    max_model_len: int = 100,
    num_blocks: int = 64,
    prefix_cache: bool = False,
    step_encodes: int = 1,
    mixed_step_tokens: int | None = None,
) -> Scheduler:
    blocks = BlockManager(num_blocks, BLOCK, enable_prefix_cache=prefix_cache)
    limits = SchedulerLimits(step_tokens, step_requests, max_model_len, mixed_step_tokens)
    return Scheduler(limits, blocks, step_encodes=step_encodes)


def next_step(scheduler: Scheduler) -> Step:
    step = scheduler.schedule()
    assert step is not None
    scheduler.check()
    return step


def commit(
    scheduler: Scheduler,
    step: Step,
    tokens: dict[int, int] | None = None,
    *,
    encoded: tuple[tuple[int, int], ...] = (),
    failed: tuple[tuple[int, str], ...] = (),
) -> dict[int, Output]:
    """The step's outputs by request, when `tokens` (else TOKEN) are drawn."""
    drawn = tokens or {}
    ids = [chunk.request_id for chunk in step.chunks if chunk.sample]
    samples = tuple(Sample(i, drawn.get(i, TOKEN)) for i in ids)
    outputs = scheduler.commit(step, StepResult(step.id, samples, encoded=encoded, failed=failed))
    scheduler.check()
    assert len({output.request_id for output in outputs}) == len(outputs)
    return {output.request_id: output for output in outputs}


def run_step(scheduler: Scheduler, tokens: dict[int, int] | None = None) -> tuple[Step, dict[int, Output]]:
    step = next_step(scheduler)
    return step, commit(scheduler, step, tokens)


def spans(step: Step) -> list[tuple[int, int, int]]:
    return [(chunk.request_id, chunk.start, chunk.count) for chunk in step.chunks]


def ids(step: Step) -> list[int]:
    return [chunk.request_id for chunk in step.chunks]
