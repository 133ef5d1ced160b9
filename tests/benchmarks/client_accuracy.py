"""How far the client's figures are from the truth: `python -m tests.benchmarks.client_accuracy [RUNS] [--all-rows]`.

A paced server in another process, on another core where there is one, knows when a request came and when each token
went out. Prints, for each load, TTFT as the client has it less TTFT as the server has it, the lag of arrivals behind
the server's stamps, throughput, and the client's CPU time per token: the median of RUNS runs (five by default), and
whether the budget was met. A request comes when the server's loop gets to it, or, in the columns "kernel", when
its bytes reached the server's kernel: between the two lies what the server, not the client, was late.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from statistics import median
from typing import NamedTuple

import uvloop

from ming_eval.client import Client, Exchange
from ming_eval.metrics import latency
from ming_eval.metrics.stats import Summary, summarise, throughput
from ming_eval.targets import Target
from ming_eval.types import EventKind, Message, Request, Text


@dataclass(frozen=True)
class Load:
    """One row: how many at once, and the schedule of each reply."""

    name: str
    concurrency: int
    num_requests: int
    first_ms: float
    gap_ms: float
    num_tokens: int
    budget: Budget


@dataclass(frozen=True)
class Budget:
    """Most that the TTFT may be off, mean and p99 in milliseconds; fewest tokens per second; most CPU per token."""

    ttft_error_mean_ms: float | None = None
    ttft_error_p99_ms: float | None = None
    tokens_per_s: float | None = None
    cpu_per_token_us: float | None = None


LOADS = (
    Load("err32", 32, 96, 50, 10, 64, Budget(1, 3)),
    Load("err256", 256, 512, 50, 10, 64, Budget(1, 3, cpu_per_token_us=15)),
    Load("max256", 256, 2048, 50, 0, 128, Budget(tokens_per_s=300_000)),
    Load("gap256", 256, 512, 50, 5, 128, Budget(tokens_per_s=46_000)),
)
LOADS_WITH_CORES_TO_SPARE = (
    Load("err1024", 1024, 2048, 50, 10, 64, Budget(2, 6)),
    Load("gap1024", 1024, 2048, 50, 5, 128, Budget(tokens_per_s=150_000)),
)
_CORES_FOR_1024 = 4  # one for the system besides client and server


@contextmanager
def paced_server() -> Iterator[str]:
    """The URL of a server in a process of its own; the two processes get a core each where there are two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.paced_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:1])
            os.sched_setaffinity(server.pid, cores[1:2])
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()


async def run_load(url: str, load: Load) -> tuple[list[Exchange], float]:
    """All exchanges of a closed loop, and the CPU seconds they took."""
    schedule = {"first_ms": load.first_ms, "gap_ms": load.gap_ms, "num_tokens": load.num_tokens}
    request = Request(id="r", messages=(Message("user", (Text("hi"),)),), extra=schedule)
    async with Client(Target.at(url), connections=load.concurrency) as client:
        prepared = client.prepare(request)
        work = iter(range(load.num_requests))

        async def slot() -> list[Exchange]:
            return [await client.send(request, prepared) for _ in work]

        gc.collect()
        gc.freeze()
        started_s = time.process_time()
        done = await asyncio.gather(*(slot() for _ in range(load.concurrency)))
        cpu_s = time.process_time() - started_s
        gc.unfreeze()
    return [exchange for exchanges in done for exchange in exchanges], cpu_s


@dataclass(frozen=True)
class Figures:
    """One run of one load; times in milliseconds, processor time in microseconds."""

    failed: float
    ttft_error_mean: float
    ttft_error_p99: float
    kernel_error_mean: float
    kernel_error_p99: float
    lag_mean: float
    lag_p99: float
    tokens_per_s: float
    cpu_per_token: float


def figures(exchanges: list[Exchange], cpu_s: float) -> Figures:
    """What one run comes to."""
    zero_s = min(exchange.sent_s for exchange in exchanges)
    records = [
        latency.make_record(exchange, index=i, concurrency=1, warmup=False, zero_s=zero_s)
        for i, exchange in enumerate(exchanges)
    ]
    firsts = [next(_stamps(exchange)) for exchange in exchanges if exchange.failure is None]
    error = _ms(stamp.ttft_error_s for stamp in firsts)
    kernel = _ms(stamp.kernel_error_s for stamp in firsts)
    lag = _ms(stamp.lag_s for exchange in exchanges for stamp in _stamps(exchange))
    total = throughput(records)
    assert total is not None
    assert total.num_tokens is not None
    return Figures(
        failed=sum(not record.ok for record in records),
        ttft_error_mean=error.mean,
        ttft_error_p99=error.p99,
        kernel_error_mean=kernel.mean,
        kernel_error_p99=kernel.p99,
        lag_mean=lag.mean,
        lag_p99=lag.p99,
        tokens_per_s=total.output_tokens_per_s or 0,
        cpu_per_token=1e6 * cpu_s / total.num_tokens,
    )


class Stamp(NamedTuple):
    """One token: what the client saw against what the server did, whose clock is this process's."""

    ttft_error_s: float
    kernel_error_s: float
    lag_s: float


def _stamps(exchange: Exchange) -> Iterator[Stamp]:
    for event in exchange.events:
        if event.kind is EventKind.TEXT:
            kernel_s, arrived_s, written_s = map(float, event.text.split())
            seen_s = event.time_s - exchange.sent_s
            yield Stamp(seen_s - (written_s - arrived_s), seen_s - (written_s - kernel_s), event.time_s - written_s)


def _ms(values_s: Iterator[float]) -> Summary:
    summary = summarise(1e3 * value for value in values_s)
    assert summary is not None, "no request succeeded"
    return summary


def _median(runs: list[Figures]) -> Figures:
    return Figures(*(median(getattr(run, field.name) for run in runs) for field in fields(Figures)))


def _row(load: Load, runs: list[Figures]) -> str:
    """A line of a Markdown table: the median of the runs, and the range of what is budgeted."""
    mid = _median(runs)
    low, high = min(run.ttft_error_mean for run in runs), max(run.ttft_error_mean for run in runs)
    cells = [
        load.name,
        f"{sum(run.failed for run in runs):.0f}",
        f"{mid.ttft_error_mean:.2f} ({low:.2f} to {high:.2f})",
        f"{mid.ttft_error_p99:.2f}",
        f"{mid.kernel_error_mean:.2f}",
        f"{mid.kernel_error_p99:.2f}",
        f"{mid.lag_mean:.2f}",
        f"{mid.lag_p99:.2f}",
        f"{mid.tokens_per_s:,.0f}",
        f"{mid.cpu_per_token:.1f}",
        _verdict(load.budget, mid),
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(budget: Budget, found: Figures) -> str:
    limits = (
        ("TTFT error", found.ttft_error_mean, budget.ttft_error_mean_ms, 1),
        ("its p99", found.ttft_error_p99, budget.ttft_error_p99_ms, 1),
        ("tokens/s", found.tokens_per_s, budget.tokens_per_s, -1),
        ("CPU", found.cpu_per_token, budget.cpu_per_token_us, 1),
    )
    missed = [
        f"{name} {limit:,g}" for name, value, limit, sign in limits if limit is not None and sign * (value - limit) > 0
    ]
    return f"missed: {', '.join(missed)}" if missed else "met"


_HEADER = (
    "load",
    "failed",
    "TTFT error",
    "p99",
    "kernel",
    "p99",
    "arrival lag",
    "p99",
    "tokens/s",
    "us/token",
    "budget",
)


def main() -> None:
    """Run the loads and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=5, metavar="RUNS")
    parser.add_argument(
        "--all-rows", action="store_true", help="those of 1024 connections also on fewer than four cores"
    )
    options = parser.parse_args()
    num_runs, has_cores = options.runs, (os.cpu_count() or 1) >= _CORES_FOR_1024
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
    pinned = "client and server pinned to a core each" if len(cpus) > 1 else "client and server on the same core"
    print(f"{pinned}; median of {num_runs} runs; load average {os.getloadavg()[0]:.1f} before\n")
    print(f"| {' | '.join(_HEADER)} |\n|{' :-- |' + ' --: |' * (len(_HEADER) - 2) + ' :-- |'}")
    with paced_server() as url:
        for load in LOADS + LOADS_WITH_CORES_TO_SPARE * (has_cores or options.all_rows):
            runs = [figures(*uvloop.run(run_load(url, load))) for _ in range(num_runs)]
            print(_row(load, runs), flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f} afterwards")


if __name__ == "__main__":
    main()
