"""Malformed requests by the hundred thousand against the real server.

    python -m tests.pressure.fuzz --requests 100000

None may be answered with a 5xx, hang, or leave anything held; every error is the envelope and says nothing of the
machine. What broke is printed with the seed and number that make it again: --seed S --first N --requests 1. Figures go
to standard output and, with --json, to a file. Exit code 1 if anything broke.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.end_to_end.server import RunningServer, running_server
from tests.pressure.malformed import Malformed, malformed
from tests.pressure.watched import Footprint, footprint, until_idle
from tests.pressure.wire import Answer, Connection, get

HANG_S = 300.0  # a valid request that asks for a whole context takes a while on a busy machine
_PATIENCE_S = 0.3  # then a client that may have said too little closes its side
OPTIONS = ("--max-model-len", "128", "--kv-tokens", "16384")
_TELLING = re.compile(rb"Traceback|site-packages|\.py\b|0x[0-9a-f]{8}|/usr/|/home/|object at|<class")


@dataclass
class Tally:
    """What came of the requests."""

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


async def fuzz(port: int, *, seed: int, first: int, num_requests: int, num_clients: int) -> Tally:
    """Send requests `first` to `first + num_requests` of a seed; each is made from its number alone."""
    tally = Tally()
    numbers = iter(range(first, first + num_requests))

    async def client() -> None:
        connection: Connection | None = None
        for number in numbers:
            request = malformed(Random(f"{seed}/{number}"))
            connection = connection or await Connection.open(port)
            connection = await _try(connection, request, number, tally)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return tally


async def _try(connection: Connection, request: Malformed, number: int, tally: Tally) -> Connection | None:
    """One request; the connection again if it can take another one."""
    tally.kinds[request.kind] += 1
    answer: Answer | None = None
    try:
        async with asyncio.timeout(HANG_S):
            answer = await _exchange(connection, request)
    except TimeoutError:
        tally.broken.append(f"{number} ({request.kind}): no answer within {HANG_S:g} s: {request.data[:300]!r}")
    else:
        tally.statuses["closed" if answer is None else str(answer.status)] += 1
        if problem := _problem(request, answer):
            tally.broken.append(f"{number} ({request.kind}): {problem}: {request.data[:300]!r}")
    if answer is not None and answer.keeps_alive and not request.is_open:
        return connection
    connection.close()
    return None


async def _exchange(connection: Connection, request: Malformed) -> Answer | None:
    with suppress(ConnectionError):  # the server may have heard enough; its answer may be there
        await connection.send(request.data)
    if request.is_open:
        return await connection.answer(patience_s=_PATIENCE_S)
    return await connection.answer()


def _problem(request: Malformed, answer: Answer | None) -> str | None:
    """What is wrong with an answer, None if nothing is."""
    if answer is None:
        return None if request.is_open else "closed without an answer"
    if not answer.is_complete:
        return None if b"HEAD " in request.data else f"garbled: {answer}"
    if answer.status >= 500:
        return f"status {answer.status}"
    if answer.status < 400 or not answer.body:  # HEAD has none
        return None
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"no envelope: {answer.body[:200]!r}"
    if error.keys() != {"message", "type", "param", "code"} or len(error["message"]) > 1000:
        return f"no proper envelope: {answer.body[:200]!r}"
    return f"tells too much: {answer.body[:300]!r}" if _TELLING.search(answer.body) else None


async def campaign(server: RunningServer, options: argparse.Namespace) -> dict[str, Any]:
    """Fuzz a running server; figures, with what it held before and after."""
    port = int(server.url.rpartition(":")[2])
    warm_up = min(2000, options.requests // 4)
    chosen = {"seed": options.seed, "num_clients": options.clients}
    await fuzz(port, first=options.first + options.requests, num_requests=warm_up, **chosen)
    await until_idle(port)
    before, started_s = footprint(server.process.pid), time.perf_counter()
    tally = await fuzz(port, first=options.first, num_requests=options.requests, **chosen)
    elapsed_s = time.perf_counter() - started_s
    await until_idle(port)
    await _check_still_serves(port)
    after = footprint(server.process.pid)
    return {
        "requests": options.requests,
        "warm_up_requests": warm_up,
        "seed": options.seed,
        "elapsed_s": round(elapsed_s, 1),
        "kinds": dict(tally.kinds.most_common()),
        "answers": dict(tally.statuses.most_common()),
        "broken": tally.broken,
        "before": _shown(before),
        "after": _shown(after),
    }


async def _check_still_serves(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(get("/health"))
    answer = await connection.answer()
    connection.close()
    assert answer is not None, "no answer"
    assert answer.status == 200, answer


def _shown(found: Footprint) -> dict[str, float]:
    return {"memory_mb": round(found.memory_bytes / 1e6, 1), "fds": found.num_fds, "processes": found.num_processes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), *OPTIONS) as server:
        figures = asyncio.run(campaign(server, options))
        log = server.log.read_text()
    if "Traceback" in log:
        figures["broken"].append("the log has a traceback: " + log[log.index("Traceback") :][:4000])
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 1 if figures["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
