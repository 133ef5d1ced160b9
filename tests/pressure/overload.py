"""Ten times what the server can do: does it still do what it can, and turn the rest away at once?

    python -m tests.pressure.overload --rounds 3

Each round measures the capacity (as many clients as sequences that run, one request after the other), then sends the
same requests at ten times that rate whatever comes back. Goodput is what was answered in full, in requests per second;
a rejection is a 429 with Retry-After, timed from the moment its request was sent; /health is asked 20 times a second
meanwhile. Figures are medians over the rounds. On a machine that does other things, too, they say little: quote the
ratio, and name the load. Exit code 1 if a limit is missed or anything but 200 and 429 was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end.server import running_server
from tests.pressure.watched import until_idle
from tests.pressure.wire import Connection, get, post_json

NUM_RUNNING, NUM_WAITING = 8, 16
OPTIONS = ("--max-num-seqs", str(NUM_RUNNING), "--max-queue", str(NUM_WAITING), "--speech", "off")
_REQUEST = post_json(
    "/v1/completions",
    {"prompt": "All work and no play makes a dull day. " * 4, "max_tokens": 48, "ignore_eos": True, "temperature": 0},
)
_HEALTH_EVERY_S = 0.05
MIN_GOODPUT, MAX_REJECTION_S, MAX_HEALTH_S = 0.9, 0.1, 0.1


@dataclass
class Round:
    """One measurement of capacity and one of overload; times in seconds, rates per second."""

    capacity: float
    offered: float = 0.0
    goodput: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    rejections_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)


async def capacity(port: int, seconds: float) -> float:
    """Requests per second with every place taken and nobody waiting."""
    end_s = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        connection = await Connection.open(port)
        while time.perf_counter() < end_s:
            await connection.send(_REQUEST)
            answer = await connection.answer()
            assert answer is not None, "closed without an answer"
            assert answer.status == 200, answer
            done += time.perf_counter() < end_s
        connection.close()

    await asyncio.gather(*(client() for _ in range(NUM_RUNNING)))
    return done / seconds


async def overload(port: int, seconds: float, found: Round, factor: float) -> None:
    """Send at `factor` times the capacity, whatever comes back."""
    free: list[Connection] = []
    end_s = time.perf_counter() + seconds
    found.offered = factor * found.capacity
    tasks = [asyncio.create_task(_probe_health(port, end_s, found))]
    start_s, sent = time.perf_counter(), 0
    while (now_s := time.perf_counter()) < end_s:
        for _ in range(int((now_s - start_s) * found.offered) - sent):
            sent += 1
            tasks.append(asyncio.create_task(_one(port, free, end_s, found)))
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    found.goodput /= seconds


async def _one(port: int, free: list[Connection], end_s: float, found: Round) -> None:
    connection = free.pop() if free else await Connection.open(port)
    sent_s = time.perf_counter()
    await connection.send(_REQUEST)
    answer = await connection.answer()
    now_s = time.perf_counter()
    found.statuses[0 if answer is None else answer.status] += 1
    if answer is not None and answer.status == 200:
        found.goodput += now_s < end_s
    elif answer is not None and answer.status == 429:
        found.rejections_s.append(now_s - sent_s)
    if answer is not None and answer.keeps_alive:
        free.append(connection)
    else:
        connection.close()


async def _probe_health(port: int, end_s: float, found: Round) -> None:
    connection = await Connection.open(port)
    while (sent_s := time.perf_counter()) < end_s:
        await connection.send(get("/health"))
        answer = await connection.answer()
        assert answer is not None, "closed without an answer"
        assert answer.status == 200, answer
        found.health_s.append(time.perf_counter() - sent_s)
        await asyncio.sleep(_HEALTH_EVERY_S)
    connection.close()


async def measure(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds, and which limits were kept."""
    await capacity(port, options.seconds)  # caches fill, threads start
    rounds = []
    for _ in range(options.rounds):
        found = Round(await capacity(port, options.seconds))
        await overload(port, options.seconds, found, options.factor)
        await until_idle(port)
        rounds.append(found)
    ratio = statistics.median(found.goodput / found.capacity for found in rounds)
    rejection_s = statistics.median(_p99(found.rejections_s) for found in rounds)
    health_s = statistics.median(_p99(found.health_s) for found in rounds)
    odd = sum((found.statuses for found in rounds), Counter[int]())
    return {
        "factor": options.factor,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load_average": os.getloadavg()[0],
        "capacity_per_s": [round(found.capacity, 2) for found in rounds],
        "goodput_per_s": [round(found.goodput, 2) for found in rounds],
        "statuses": [dict(found.statuses) for found in rounds],
        "goodput_ratio": round(ratio, 3),
        "rejection_p99_ms": round(rejection_s * 1e3, 1),
        "rejection_p50_ms": round(statistics.median(t for found in rounds for t in found.rejections_s) * 1e3, 1),
        "health_p99_ms": round(health_s * 1e3, 1),
        "only_200_and_429": odd.keys() <= {200, 429},
        "kept": {
            "goodput": ratio >= MIN_GOODPUT,
            "rejection": rejection_s < MAX_REJECTION_S,
            "health": health_s < MAX_HEALTH_S,
        },
    }


def _p99(times_s: list[float]) -> float:
    return statistics.quantiles(times_s, n=100, method="inclusive")[98]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), *OPTIONS) as server:
        figures = asyncio.run(measure(int(server.url.rpartition(":")[2]), options))
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 0 if all(figures["kept"].values()) and figures["only_200_and_429"] else 1


if __name__ == "__main__":
    sys.exit(main())
