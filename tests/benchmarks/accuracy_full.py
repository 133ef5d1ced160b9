"""A set of the size of MMLU's test split against a scripted server in another process: time, memory, exact score.

`python -m tests.benchmarks.accuracy_full`. Budget: 60 s and 1 GB on 2 cores; the headline equal to the known score.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

NUM_ITEMS = 14_042
NUM_SUBJECTS = 57
LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the whole set gave; memory is the client's peak."""

    correct: int
    expected: int
    accuracy: float
    wall_s: float
    peak_bytes: int


def is_right(index: int) -> bool:
    """Which replies are right: a share that is no round number."""
    return index % 7 not in (2, 5)


def write_set(folder: Path) -> tuple[Path, Path]:
    """The items in the normalised form, and the reply to each question."""
    data, replies = folder / "full.jsonl", {}
    with data.open("w", encoding="utf-8") as file:
        for index in range(NUM_ITEMS):
            gold = (index * 31) % 4
            question = f"Question {index}: which of these is number {gold + 1} of the list? " + "It matters. " * 20
            said = LETTERS[gold if is_right(index) else (gold + 1) % 4]
            replies[question] = said if index % 3 else f"The answer is {said}."
            group = {"subject": f"subject_{index % NUM_SUBJECTS}"}
            choices = [f"choice {k} of {index}" for k in range(4)]
            row = {"id": f"i{index}", "question": question, "choices": choices, "answer": gold, "group": group}
            file.write(json.dumps(row) + "\n")
    script = folder / "replies.json"
    script.write_text(json.dumps(replies))
    return data, script


def run_all(folder: Path, *, concurrency: int = 64) -> Outcome:
    """Serve, ask and score the whole set, each in a process of its own."""
    data, script = write_set(folder)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.ming_eval.evals.scripted", str(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "accuracy", "mmlu"]
        command += ["--data", str(data), "--backend", f"s=http://127.0.0.1:{port}", "--concurrency", str(concurrency)]
        started_s = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / "results")], check=True, stdout=subprocess.DEVNULL)
        wall_s = time.perf_counter() - started_s
    finally:
        server.terminate()
        server.wait()
    (run,) = (folder / "results").iterdir()
    (suite,) = json.loads((run / "summary.json").read_text())["suites"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Outcome(suite["correct"], sum(map(is_right, range(NUM_ITEMS))), suite["accuracy"], wall_s, peak)


def main() -> None:
    """Print one run."""
    with tempfile.TemporaryDirectory() as folder:
        found = run_all(Path(folder))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs")
    print(f"{NUM_ITEMS} items in {found.wall_s:.1f} s, {NUM_ITEMS / found.wall_s:.0f} items/s with server and start-up")
    print(f"peak memory of the largest process {found.peak_bytes / 2**20:.0f} MiB")
    print(f"accuracy {found.accuracy} of {found.expected / NUM_ITEMS} expected, {found.correct} right")


if __name__ == "__main__":
    main()
