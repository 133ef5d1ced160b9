"""How long a run of one request and one token takes from start to end: `python -m tests.benchmarks.startup [RUNS]`.

The server runs already and answers at once. Processor time is printed beside the time on the clock: on a busy machine
only the former means anything.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

from tests.fakes import FakeServer, Script

BUDGET_S = 0.5


def main() -> None:
    """Time the runs, one after the other."""
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    program = "from ming_eval.cli import main; main()"
    options = ("--concurrency", "1", "--requests", "1", "--max-tokens", "1", "--warmup", "0")
    walls_s, cpus_s = [], []
    with FakeServer.in_thread(Script()) as server, tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", program, "sweep", "--backend", f"s={server.url}", *options, "--out", out]
        for _ in range(num_runs + 1):
            before, started_s = _cpu_of_children_s(), time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            walls_s.append(time.perf_counter() - started_s)
            cpus_s.append(_cpu_of_children_s() - before)
    walls_s, cpus_s = walls_s[1:], cpus_s[1:]  # the first one compiles
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {num_runs} runs")
    print(f"load average {os.getloadavg()[0]:.1f}")
    print(f"start to end: median {median(walls_s):.2f} s, least {min(walls_s):.2f} s (budget {BUDGET_S:g} s)")
    print(f"processor time: median {median(cpus_s):.2f} s, least {min(cpus_s):.2f} s")


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
