"""`python -m tests.benchmarks.side_by_side FOLDER NAME KEPT ARGUMENTS`: tests in several processes at once, for GPUs.

ARGUMENTS are pytest's, as one word; `--processes` divide the tests. With `--gpus N` process i sees GPU i % N alone;
without, all see what is there. FOLDER gets a log and a JUnit report of each, KEPT a line for each test as soon as it
has ended (`tests/benchmarks/kept.py`). Standard output has the same lines at the end, slow ones first, and the logs of
processes in which something failed; so it has when this process is told to end, with the tests that were running.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

PYTEST = ["-m", "pytest", "-o", "addopts=", "-v", "-rs", "-p", "no:cacheprovider", "--tb=short", "--durations=15"]
NO_TESTS = 5  # pytest's exit code
CALM = (0, NO_TESTS)
MOST_THREADS = 4  # a test may start processes itself
SHOWN = 400  # lines of the log of a process in which something failed


@dataclass
class Part:
    """One process and what it leaves."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    code: int | None = None  # once it has ended

    @property
    def is_whole(self) -> bool:
        """Whether it ended by itself."""
        return self.code is not None and self.code >= 0


def main() -> int:
    """0 if nothing failed, else an exit code of pytest's: 5 where no process found a test."""
    args = _parse()
    before = args.kept.stat().st_size if args.kept.exists() else 0
    began = time.monotonic()
    parts = [_start(args, i) for i in range(args.processes)]

    def stopped(*_: Any) -> NoReturn:
        for part in parts:
            part.code = part.process.poll()
        _report(parts, args.kept, before, began)
        for part in parts:
            part.process.kill()
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stopped)
    for part in parts:
        part.code = part.process.wait()
    _report(parts, args.kept, before, began)
    codes = [part.process.returncode for part in parts]
    return next((code for code in codes if code not in CALM), min(codes))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.side_by_side", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("kept", type=Path)
    parser.add_argument("arguments", type=shlex.split)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    return parser.parse_args()


def _start(args: argparse.Namespace, index: int) -> Part:
    name = f"{args.name}.{index}"
    files = ["--junitxml", str(args.folder / f"{name}.xml"), "--kept", str(args.kept.resolve()), "--part", name]
    share = ["-p", "tests.benchmarks.kept", "--share", f"{index}/{args.processes}"]
    command = [sys.executable, *PYTEST, *share, *files, *args.arguments]
    threads = (os.cpu_count() or 1) // args.processes
    env = os.environ | {"OMP_NUM_THREADS": str(max(1, min(threads, MOST_THREADS)))}
    if args.gpus:
        visible = env.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(args.gpus)))).split(",")
        env["CUDA_VISIBLE_DEVICES"] = visible[index % len(visible)]
    log = args.folder / f"{name}.log"
    with log.open("wb") as file:
        return Part(name, log, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env))


def _report(parts: list[Part], kept: Path, before: int, began: float) -> None:
    """A failure's lines begin with FAILED, for who looks for them."""
    text = kept.read_bytes()[before:].decode() if kept.exists() else ""
    lines = text.splitlines()
    for part in parts:
        log = part.log.read_text(encoding="utf-8", errors="replace")
        if part.is_whole and part.code not in CALM:
            print(f"---- {part.log.name}", *log.splitlines()[-SHOWN:], sep="\n")
    print("---- results", *sorted(lines, key=_seconds), sep="\n")
    for part in parts:
        mine = [line.split()[0] for line in lines if f" s {part.name} " in line]
        counts = ", ".join(f"{mine.count(word)} {word.lower()}" for word in ("PASSED", "FAILED", "SKIPPED"))
        print(f"{part.name}: {counts} in {time.monotonic() - began:.0f} s, {_end(part)}", flush=True)


def _seconds(line: str) -> float:
    return -float(line.split()[1])


def _end(part: Part) -> str:
    if part.is_whole:
        return f"pytest's exit code {part.code}"
    started = [line for line in part.log.read_text(encoding="utf-8", errors="replace").splitlines() if "::" in line]
    return f"stopped during {started[-1].split(' ')[0] if started else 'its imports'}"


if __name__ == "__main__":
    sys.exit(main())
