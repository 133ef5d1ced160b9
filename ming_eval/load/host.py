"""Can this host make the load? Looked at before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ming_eval.errors import UsageError
from ming_eval.load.plan import LoadPlan

_SPARE_FILES = 64  # log files, probes, what Python has open
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_BUSY = 0.5  # processes ready to run, per core

Warn = Callable[[str], None]


def make_room(plan: LoadPlan) -> None:
    """See that there can be as many connections as the plan needs.

    Raises:
        UsageError: there cannot.
    """
    connections = max(level.concurrency for level in plan.levels())
    _check_files(connections)
    _check_ports(connections)


def warn_if_busy(warn: Warn) -> None:
    """Say so when something else already takes this host's processors."""
    if (busy := _load_per_core()) is not None and busy > _BUSY:
        warn(f"this host is busy: {busy:.1f} processes per core are ready to run; expect lag")


def _check_files(connections: int) -> None:
    """Raise the soft limit of open files where the hard one allows it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(f"{connections} connections need {needed} open files, {hard} are allowed: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_ports(connections: int) -> None:
    try:
        low, high = map(int, _PORT_RANGE.read_text().split())
    except (OSError, ValueError):  # not Linux
        return
    if connections > high - low + 1:
        raise UsageError(
            f"{connections} connections to one address need as many ports, {high - low + 1} are there: "
            "widen net.ipv4.ip_local_port_range"
        )


def _load_per_core() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None
