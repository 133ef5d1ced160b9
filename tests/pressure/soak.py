"""Hours of ordinary life in minutes: many clients, random lengths, some that leave, some that send nonsense.

    python -m tests.pressure.soak --minutes 30 --clients 64

Every valid request must succeed; memory may not grow with the number of requests (least squares after a warm-up of a
fifth of the time), and at the end no block, request or file descriptor is held. Figures go to standard output and,
with --json, to a file. Exit code 1 if any of that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.end_to_end.server import running_server
from tests.pressure.malformed import malformed
from tests.pressure.valid import Valid, one_of_each, valid
from tests.pressure.watched import Footprint, footprint, memory_by_role, until_idle
from tests.pressure.wire import Connection

ABORTED, MALFORMED = 0.10, 0.05  # shares of all requests
MAX_SLOPE_MB = 1.0  # per thousand requests
OPTIONS = ("--max-model-len", "1024")  # a mutated request may have lost its limit, and writes until the context is full
_HANG_S = 600.0
_SAMPLES = 120  # of memory, over the run
_WARM_UP = 0.2  # of the run
_SETTLE_S = 60.0


@dataclass
class Soak:
    """What has come of the run so far."""

    ends_s: float
    done: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    samples: list[tuple[float, int, dict[str, int]]] = field(default_factory=list)  # seconds, requests, bytes by role

    @property
    def num_requests(self) -> int:
        return self.done.total()


async def soak(port: int, pid: int, seconds: float, num_clients: int, seed: int) -> Soak:
    """Run all clients until the time is over."""
    started_s = time.perf_counter()
    run = Soak(ends_s=started_s + seconds)
    clients = [asyncio.create_task(_client(port, Random(f"{seed}/{n}"), run)) for n in range(num_clients)]
    while time.perf_counter() < run.ends_s:
        await asyncio.sleep(seconds / _SAMPLES)
        elapsed_s = time.perf_counter() - started_s
        run.samples.append((elapsed_s, run.num_requests, await asyncio.to_thread(memory_by_role, pid)))
    await asyncio.gather(*clients)
    return run


async def _client(port: int, random: Random, run: Soak) -> None:
    connection: Connection | None = None
    while time.perf_counter() < run.ends_s:
        connection = connection or await Connection.open(port)
        draw = random.random()
        if draw < ABORTED:
            connection = await _leave(connection, random, run)
        elif draw < ABORTED + MALFORMED:
            connection = await _malformed(connection, random, run)
        else:
            connection = await _valid(connection, valid(random), run)
    if connection is not None:
        connection.close()


async def _leave(connection: Connection, random: Random, run: Soak) -> None:
    """Send a valid request and go away, at any moment of its life."""
    request = valid(random)
    cut = len(request.data) if random.random() < 0.9 else random.randrange(len(request.data))
    await connection.send(request.data[:cut])
    await asyncio.sleep(random.expovariate(1 / 0.7))
    connection.abort()
    run.done["left"] += 1


async def _malformed(connection: Connection, random: Random, run: Soak) -> None:
    """Nonsense on a connection of its own: what comes of it is no affair of the next request."""
    request = malformed(random)
    try:
        async with asyncio.timeout(_HANG_S):
            await connection.send(request.data)
            answer = await connection.answer(patience_s=1.0 if request.is_open else None)
            if answer is not None and answer.status >= 500:
                run.broken.append(f"malformed {request.kind}: {answer.status}: {request.data[:300]!r}")
    except ConnectionError:
        pass
    except TimeoutError:
        run.broken.append(f"malformed {request.kind}: no answer: {request.data[:300]!r}")
    run.done["malformed"] += 1
    connection.close()


async def _valid(connection: Connection, request: Valid, run: Soak) -> Connection | None:
    """A request that must succeed; the connection again if it is kept."""
    try:
        async with asyncio.timeout(_HANG_S):
            await connection.send(request.data)
            answer = await connection.answer()
        assert answer is not None, "closed without an answer"
        assert answer.status == 200, f"{answer.status} {answer.body[:300]!r}"
        request.check(answer)
    except (AssertionError, ConnectionError, TimeoutError, ValueError, LookupError) as error:
        run.broken.append(f"{request.kind}: {type(error).__name__} {error}"[:500])
        answer = None
    run.done[request.kind] += 1
    if answer is not None and answer.keeps_alive:
        return connection
    connection.close()
    return None


async def _once(port: int, request: Valid) -> None:
    connection = await Connection.open(port)
    await connection.send(request.data)
    answer = await connection.answer()
    connection.close()
    assert answer is not None, "closed without an answer"
    request.check(answer)


def slope_mb(samples: list[tuple[float, int, dict[str, int]]], role: str | None = None) -> float | None:
    """Megabytes per thousand requests after the warm-up, of one kind of process or of all."""
    kept = [sample for sample in samples if sample[0] >= _WARM_UP * samples[-1][0]]
    requests = [count for _, count, _ in kept]
    memory = [sum(roles.values()) if role is None else roles.get(role, 0) for *_, roles in kept]
    if len(set(requests)) < 2:
        return None
    return statistics.linear_regression(requests, memory).slope * 1000 / 1e6


async def campaign(port: int, pid: int, options: argparse.Namespace) -> dict[str, Any]:
    """The run with everything around it; `failures` says what should not be."""
    await soak(port, pid, options.warm_up_s, options.clients, options.seed + 1)
    await asyncio.gather(*(_once(port, request) for request in one_of_each()))  # all workers are there now
    await until_idle(port)
    await asyncio.sleep(2.0)  # closed connections are gone
    before = footprint(pid)
    run = await soak(port, pid, options.minutes * 60, options.clients, options.seed)
    at_end = await until_idle(port)
    after = await _settled(pid, before.num_fds)
    slope = slope_mb(run.samples)
    failures = list(run.broken)
    if slope is None or (slope >= MAX_SLOPE_MB and not options.no_slope):
        failures.append(f"memory grows by {slope} MB per 1,000 requests")
    if after.num_fds > before.num_fds:
        failures.append(f"{after.num_fds} file descriptors are open, {before.num_fds} were before")
    roles = sorted(run.samples[-1][2])
    return {
        "minutes": options.minutes,
        "clients": options.clients,
        "seed": options.seed,
        "requests": run.num_requests,
        "kinds": dict(run.done.most_common()),
        "generated_tokens": int(at_end["generation_tokens_total"]),
        "slope_mb_per_1000": slope,
        "slope_mb_per_1000_by_role": {role: slope_mb(run.samples, role) for role in roles},
        "before": asdict(before),
        "after": asdict(after),
        "failures": failures,
        "samples": [
            (round(at_s), count, {role: num_bytes // 1_000_000 for role, num_bytes in roles.items()})
            for at_s, count, roles in run.samples
        ],
    }


async def _settled(pid: int, num_fds: int) -> Footprint:
    """What is held once closed connections are really gone, which takes a moment, and longer on a busy machine."""
    end_s = time.perf_counter() + _SETTLE_S
    while (now := footprint(pid)).num_fds > num_fds and time.perf_counter() < end_s:
        await asyncio.sleep(0.5)
    return now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm-up-s", type=float, default=20.0)
    parser.add_argument("--no-slope", action="store_true", help="do not judge memory: a short run cannot tell")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), *OPTIONS) as server:
        port = int(server.url.rpartition(":")[2])
        figures = asyncio.run(campaign(port, server.process.pid, options))
        log = server.log.read_text()
    if "Traceback" in log:
        figures["failures"].append("the log has a traceback: " + log[log.index("Traceback") :][:4000])
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
