"""Which way of a decode step's kernels should serve: `python -m engine.bench.choose VARIANTS.json`.

Reads what `python -m engine.bench --variants NAME,... --json VARIANTS.json` wrote, the first of whose ways is what the
others are compared with. A way may serve if it ran to its end, no request failed, its streams touched as many experts
as uniform routing, and they said what those of the first way said for a while: roundings differ between ways, and
streams that are drawn then part at some token, but ones that part at once were computed wrongly.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LEAST_GAIN = 1.02  # what two runs of one way may differ by
LEAST_EQUAL_TOKENS = 4.0  # mean over streams; the first comes from the prompt's step, which all ways compute alike
Results = Mapping[str, Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 advice was given, 1 the first way gives nothing to compare with, 2 no such file, or another one."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench.choose", description=__doc__)
    parser.add_argument("variants", type=Path, help="what engine.bench --variants wrote with --json")
    parser.add_argument("--name", action="store_true", help="print the name of the way alone")
    options = parser.parse_args(argv)
    try:
        results = json.loads(options.variants.read_text(encoding="utf-8"))["variants"]
    except OSError as error:
        print(f"error: cannot read {options.variants}: {error.strerror}", file=sys.stderr)
        return 2
    except (ValueError, KeyError, TypeError):
        print(f"error: {options.variants} is no file of `engine.bench --variants NAME,... --json`", file=sys.stderr)
        return 2
    best = choose(results)
    print((best or "") if options.name else "\n".join(advice(results)))
    return 0 if best else 1


def choose(results: Results) -> str | None:
    """The way of the highest rates, over all batch sizes alike, of those that may serve; None if the first may not."""
    first = next(iter(results), None)
    if first is None or objection(results, first):
        return None
    gains = {name: gain(results, name) for name in results if not objection(results, name)}
    best = max(gains, key=gains.__getitem__)
    return best if gains[best] >= LEAST_GAIN else first


def objection(results: Results, name: str) -> str | None:
    """Why the way of that name may not serve, if so."""
    found, first = results[name], next(iter(results.values()))
    if not found["rows"]:
        return "no rate"
    missing = {row["batch"] for row in first["rows"]} - {row["batch"] for row in found["rows"]}
    if missing:
        return f"no rate at {', '.join(map(str, sorted(missing)))}"
    for row in found["rows"]:
        if row["failed"] or not row["valid"]:
            return f"batch {row['batch']}: " + (f"{row['failed']} failed" if row["failed"] else "too few experts")
        equal = row.get("equal_tokens")
        if equal is not None and equal < min(LEAST_EQUAL_TOKENS, row["num_tokens"]):
            return f"batch {row['batch']}: equal for {equal:.1f} of {row['num_tokens']} tokens"
    return f"exit code {found['exit_code']}" if found["exit_code"] else None


def gain(results: Results, name: str) -> float:
    """How many times the first way's rates, the geometric mean over its batch sizes."""
    first = {row["batch"]: row["decode_tok_s"] for row in next(iter(results.values()))["rows"]}
    ratios = [row["decode_tok_s"] / first[row["batch"]] for row in results[name]["rows"] if row["batch"] in first]
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def advice(results: Results) -> list[str]:
    """What to take and why, a line a way, and the best way of each batch size."""
    best = choose(results)
    if best is None:
        first = next(iter(results), None)
        problem = "no way was measured" if first is None else f"{first}: {objection(results, first)}"
        return [f"nothing to compare with: {problem}"]
    lines = [f'choice: DEFAULT = "{best}" in engine/kernels/paths.py, if the tests on the GPU pass by it']
    for name in results:
        why = objection(results, name)
        lines.append(f"  {name:22}" + (f"out: {why}" if why else f"x {gain(results, name):.3f}{_equal(results[name])}"))
    able = [name for name in results if not objection(results, name)]
    for index, row in enumerate(next(iter(results.values()))["rows"]):
        fastest = max(able, key=lambda name: results[name]["rows"][index]["decode_tok_s"])
        rate = results[fastest]["rows"][index]["decode_tok_s"]
        lines.append(f"  batch {row['batch']:4}: {fastest}, {rate:.1f} tok/s, x {rate / row['decode_tok_s']:.3f}")
    return lines


def _equal(found: Mapping[str, Any]) -> str:
    rows = [row for row in found["rows"] if row.get("equal_tokens") is not None]
    least = min(rows, key=lambda row: row["equal_tokens"], default=None)
    return "" if least is None else f", equal for {least['equal_tokens']:.1f} of {least['num_tokens']} tokens or more"


def compare_tokens(rows: Sequence[dict[str, Any]], first: Mapping[int, list[list[int]]]) -> None:
    """Put the mean length of what streams say alike, and how long it could be, in the place of each row's `tokens`."""
    for row in rows:
        said = row.pop("tokens")
        theirs = first.get(row["batch"])
        row["num_tokens"] = max(map(len, said))
        pairs = [] if theirs is None else list(zip(said, theirs, strict=True))
        row["equal_tokens"] = sum(_common(a, b) for a, b in pairs) / len(pairs) if pairs else None


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    sys.exit(main())
