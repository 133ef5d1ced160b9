"""The server under pressure: started as an operator does, with what its processes hold and what it says of itself."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from tests.pressure.wire import Connection, get

_GAUGE = re.compile(r"^ming:(\w+)\{model_name=\"[^\"]*\"\} (\S+)$", re.MULTILINE)


_GONE = (FileNotFoundError, ProcessLookupError)  # a thread or a worker that ended while it was looked at


@dataclass(frozen=True)
class Footprint:
    """What a process and its descendants hold. `memory_bytes` is its own pages: those of libraries are shared
    with whoever else runs them, and a proportional count would follow what the neighbours do."""

    memory_bytes: int
    num_fds: int
    num_processes: int


def footprint(pid: int) -> Footprint:
    """Of a running server, all its workers included."""
    found = [one for one in map(_one, _tree(pid)) if one is not None]
    return Footprint(sum(one.memory_bytes for one in found), sum(one.num_fds for one in found), len(found))


def memory_by_role(pid: int) -> dict[str, int]:
    """Bytes of the processes of a server, by the module that each runs."""
    roles: dict[str, int] = {}
    for member in _tree(pid):
        found = _one(member)
        if found is not None:
            role = _role(member)
            roles[role] = roles.get(role, 0) + found.memory_bytes
    return roles


def pids_of(pid: int, role: str) -> list[int]:
    """The processes of a server that run this module."""
    return [member for member in _tree(pid) if _role(member) == role]


def _role(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except _GONE:
        return "gone"
    return words[words.index("-m") + 1] if "-m" in words else words[0]


def _tree(pid: int) -> list[int]:
    try:
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except _GONE:
        return []
    return [pid, *(descendant for child in children for descendant in _tree(child))]


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except _GONE:
        return []


def _one(pid: int) -> Footprint | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        num_fds = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except _GONE:
        return None
    memory_kib = next((int(line.split()[1]) for line in lines if line.startswith("Anonymous:")), 0)  # a zombie has none
    return Footprint(memory_kib << 10, num_fds, 1)


async def gauges(port: int) -> dict[str, float]:
    """Metrics without labels of their own, by name."""
    connection = await Connection.open(port)
    try:
        await connection.send(get("/metrics"))
        answer = await connection.answer()
    finally:
        connection.close()
    assert answer is not None
    return {name: float(value) for name, value in _GAUGE.findall(answer.body.decode())}


async def until_idle(port: int, limit_s: float = 60.0) -> dict[str, float]:
    """Gauges once nothing runs, waits or holds a block.

    Raises:
        AssertionError: that does not come about, so something leaked.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limit_s
    while True:
        now = await gauges(port)
        held = {name: now[name] for name in _HELD if now.get(name)}
        if not held:
            return now
        assert loop.time() < end_s, f"still held after {limit_s:g} s without a request: {held}"
        await asyncio.sleep(0.2)


_HELD = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_speech_open")
