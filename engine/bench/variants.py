"""The same measurement by several ways of a decode step's kernels, one after the other, side by side in one result.

Each runs in a process of its own: ranks meet once in a process's life, and a way that hangs or fails ends only itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.kernels.paths import VARIANTS

LONGEST_S = 300  # of one variant: a kernel that waits for a counter which nobody raises would wait for ever
Results = Mapping[str, Mapping[str, Any]]


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
    """Run `engine.bench` with `arguments` for each variant and print rates beside the first one's.

    Exit code: the first that is not 0; the others are measured all the same.
    """
    results: dict[str, Any] = {}
    worst = 0
    for name in names:
        path = folder / f"{len(results)}.json"
        command = [sys.executable, "-m", "engine.bench", *arguments, "--paths", name, "--json", str(path)]
        print(f"-- {name}", flush=True)
        try:
            code = subprocess.run(command, check=False, timeout=LONGEST_S).returncode
        except subprocess.TimeoutExpired:
            code = 1
        worst = worst or code
        measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
        results[name] = {"exit_code": code} | measured
        if json_path is not None:
            json_path.write_text(json.dumps({"variants": results}, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(results)), flush=True)
    return worst


def table(results: Results) -> list[str]:
    """A line a batch size: tokens a second of each variant, and how that compares with the first."""
    rates = {name: {row["batch"]: row["decode_tok_s"] for row in found["rows"]} for name, found in results.items()}
    first = next(iter(rates.values()))
    lines = ["decode tok/s" + "".join(f"{name:>24}" for name in rates)]
    for batch in sorted({batch for found in rates.values() for batch in found}):
        cells = [_cell(found.get(batch), first.get(batch)) for found in rates.values()]
        lines.append(f"{batch:12}" + "".join(f"{cell:>24}" for cell in cells))
    return lines


def _cell(rate: float | None, first: float | None) -> str:
    if rate is None:
        return "failed"
    return f"{rate:.1f}" if not first else f"{rate:.1f} (x {rate / first:.3f})"
