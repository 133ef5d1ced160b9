"""How far the client's figures are from the truth: `python -m tests.benchmarks.client_accuracy`.

A paced server in another process, on another core where there is one, knows when a request came and when each token
went out. Prints, for each load, TTFT as the client has it less TTFT as the server has it, the lag of arrivals behind
the server's stamps, throughput, and the client's CPU time per token.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


LOADS = (
    Load("err32", 32, 96, 50, 10, 64),
    Load("err256", 256, 512, 50, 10, 64),
    Load("max256", 256, 2048, 50, 0, 128),
    Load("gap256", 256, 512, 50, 5, 128),
)
LOADS_WITH_CORES_TO_SPARE = (
    Load("err1024", 1024, 2048, 50, 10, 64),
    Load("gap1024", 1024, 2048, 50, 5, 128),
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


def report(load: Load, exchanges: list[Exchange], cpu_s: float) -> str:
    """One line of figures in milliseconds."""
    zero_s = min(exchange.sent_s for exchange in exchanges)
    records = [
        latency.make_record(exchange, index=i, concurrency=load.concurrency, warmup=False, zero_s=zero_s)
        for i, exchange in enumerate(exchanges)
    ]
    num_failed = sum(not record.ok for record in records)
    ttft_error = _ms(next(_stamps(exchange)).ttft_error_s for exchange in exchanges if exchange.failure is None)
    lag = _ms(stamp.lag_s for exchange in exchanges for stamp in _stamps(exchange))
    total = throughput(records)
    assert total is not None
    assert total.num_tokens is not None
    return (
        f"{load.name:8} {num_failed:6} {ttft_error.mean:9.2f} {ttft_error.p99:8.2f} {lag.mean:9.2f} {lag.p99:8.2f}"
        f" {total.output_tokens_per_s or 0:10,.0f} {1e6 * cpu_s / total.num_tokens:8.2f}"
    )


class Stamp(NamedTuple):
    """One token: what the client saw against what the server did."""

    ttft_error_s: float
    lag_s: float


def _stamps(exchange: Exchange) -> Iterator[Stamp]:
    for event in exchange.events:
        if event.kind is EventKind.TEXT:
            arrived_s, written_s = map(float, event.text.split())
            seen_s, true_s = event.time_s - exchange.sent_s, written_s - arrived_s
            yield Stamp(seen_s - true_s, event.time_s - written_s)


def _ms(values_s: Iterator[float]) -> Summary:
    summary = summarise(1e3 * value for value in values_s)
    assert summary is not None, "no request succeeded"
    return summary


def main() -> None:
    """Run every load once and print the table."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("load     failed  TTFT err      p99   arrival      p99   tokens/s   us/tok")
    print("                     mean            lag mean                         CPU")
    with paced_server() as url:
        loads = LOADS + LOADS_WITH_CORES_TO_SPARE * ((os.cpu_count() or 1) >= _CORES_FOR_1024)
        for load in loads:
            print(report(load, *uvloop.run(run_load(url, load))), flush=True)


if __name__ == "__main__":
    main()
