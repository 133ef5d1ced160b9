"""Time of schedule + commit between two steps of decodes, with two steps in flight.

    python -m tests.benchmarks.scheduler

The budget is a few per cent of a GPU step: 300 us at 64 running requests, 1 ms at 256.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections import deque

from engine.core.blocks import BlockManager
from engine.core.request import GenerationRequest, Sample, SamplingParams, SchedulerLimits, Step, StepResult
from engine.core.scheduler import Scheduler

NUM_STEPS = 600
BLOCK_SIZE = 16


def make_scheduler(num_requests: int) -> Scheduler:
    limits = SchedulerLimits(step_tokens=64 * num_requests, step_requests=num_requests, max_model_len=32_768)
    blocks = BlockManager(num_requests * (NUM_STEPS // BLOCK_SIZE + 8), BLOCK_SIZE)
    scheduler = Scheduler(limits, blocks)
    sampling = SamplingParams(max_tokens=NUM_STEPS, eos_token_ids=(2,))
    for i in range(num_requests):
        scheduler.submit(GenerationRequest(i, tuple(range(i, i + 40)), sampling))
    return scheduler


def result_of(step: Step) -> StepResult:
    return StepResult(step.id, tuple(Sample(chunk.request_id, 7) for chunk in step.chunks if chunk.sample))


def step_times_s(num_requests: int) -> list[float]:
    scheduler = make_scheduler(num_requests)
    in_flight: deque[Step] = deque()
    times_s: list[float] = []
    while scheduler.has_work:
        started_s = time.perf_counter()
        step = scheduler.schedule()
        spent_s = time.perf_counter() - started_s
        if step is not None:
            in_flight.append(step)
        if len(in_flight) == 1 and step is not None:
            continue
        oldest = in_flight.popleft()
        result = result_of(oldest)
        started_s = time.perf_counter()
        scheduler.commit(oldest, result)
        times_s.append(spent_s + time.perf_counter() - started_s)
    return times_s


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for num_requests in (1, 64, 256):
        times_s = sorted(step_times_s(num_requests))
        p99_s = times_s[int(0.99 * len(times_s))]
        print(
            f"{num_requests:4d} running: median {statistics.median(times_s) * 1e6:6.0f} us, p99 {p99_s * 1e6:6.0f} us"
        )


if __name__ == "__main__":
    main()
