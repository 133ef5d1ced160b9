"""The same measurement by several ways of a decode step's kernels, one after the other, side by side in one result.

Each runs in a process of its own: ranks meet once in a process's life, and a way that hangs or fails ends only itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.bench.choose import Results, advice, compare_tokens
from engine.bench.files import write_whole
from engine.kernels.paths import VARIANTS

# A kernel that waits for a counter that nobody raises never ends, and the others want their turn: gpu_record.sh gives
# all eight 240 s. The first one says what a variant takes on this machine; any other may take twice that.
FIRST_S, LONGEST_S = 300.0, 60.0


def parse_variants(text: str) -> list[str]:
    """`measured,all`; `each` is all there are.

    Raises:
        ArgumentTypeError: there is no such variant.
    """
    names = list(VARIANTS) if text == "each" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ArgumentTypeError(f"no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    return names


def compare(names: Sequence[str], arguments: Sequence[str], folder: Path, json_path: Path | None) -> int:
    """Run `engine.bench` with `arguments` for each variant; behind each, print the rates so far beside the first one's.

    Exit code: the first that is not 0; the others are measured all the same.
    """
    results: dict[str, Any] = {}
    said: dict[int, list[list[int]]] = {}  # by the first variant, at each batch size
    worst, longest_s = 0, FIRST_S
    for name in names:
        path = folder / f"{len(results)}.json"
        command = [sys.executable, "-m", "engine.bench", *arguments, "--paths", name, "--json", str(path)]
        command.append("--keep-tokens")
        print(f"-- {name}", flush=True)
        began_s = time.monotonic()
        try:
            code = subprocess.run(command, check=False, timeout=longest_s).returncode
            if not results:
                longest_s = max(LONGEST_S, 2 * (time.monotonic() - began_s))
        except subprocess.TimeoutExpired:
            code = 1
        worst = worst or code
        measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
        if not results:
            said = {row["batch"]: row["tokens"] for row in measured["rows"]}
        compare_tokens(measured["rows"], said)
        results[name] = {"exit_code": code} | measured
        if json_path is not None:
            write_whole(json_path, {"variants": results})
        lines = [*table(results), *advice(results)]
        print("\n".join(lines), flush=True)  # all of it: whoever ends this early sees the last lines
    return worst


def table(results: Results) -> list[str]:
    """A line a variant: tokens a second at each batch size, and how that compares with the first variant."""
    rates = {name: {row["batch"]: row["decode_tok_s"] for row in found["rows"]} for name, found in results.items()}
    first = next(iter(rates.values()))
    batches = sorted({batch for found in rates.values() for batch in found})
    return [
        _line(name, [_cell(batch, found.get(batch), first.get(batch)) for batch in batches])
        for name, found in rates.items()
    ]


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:22}decode tok/s" + ("".join(f"{cell:>26}" for cell in cells) or " failed")


def _cell(batch: int, rate: float | None, first: float | None) -> str:
    if rate is None:
        return f"{batch}: failed"
    return f"{batch}: {rate:.1f}" + (f" (x {rate / first:.3f})" if first else "")
