"""The same work through HTTP as offline: `python -m tests.benchmarks.http_against_offline OFFLINE OUT -- OPTIONS`.

OFFLINE is a file of `python -m engine.bench`. A server with OPTIONS is started, and `ming-eval sweep` sends
full waves at the batch sizes of that file: prompts of as many random token ids through /v1/completions, as many output
tokens, temperature 1, a seed for each request. (Chats would be another workload: the template that all of them begin
with makes streams share experts.) OUT gets, for each size, both rates, their ratio and the distinct experts that the
server saw. Exit code 1: a request failed, a prompt was longer or shorter or cached, a point is more than 7 % below
offline, its streams shared experts, or the sweep was ended early (SIGTERM to the whole process group, as `timeout`
sends it): OUT then holds the points that there are.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.end_to_end.server import RunningServer, environment, running_server

ROOT = Path(__file__).parents[2]
# Kernels are chosen by rows and compiled for multiples of 16 and others: some of each on either side of each border.
PROMPT_SIZES = (3, 16, 35, 48, 67, 96, 203, 304, 403, 512, 1603, 2048, 4003, 8000)
LEAST_RATIO = 0.93
LEAST_EXPERTS = 0.95  # of what uniform routing touches
SWEEP = "from ming_eval.cli import main; main()"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: see above."""
    options = _parse(argv)
    offline = json.loads(options.offline.read_text(encoding="utf-8"))
    options.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ming-http-") as folder:
        # The context as well: captured attention is laid out for the longest sequence that there may be.
        engine = ["--max-model-len", str(offline["max_model_len"]), *_cut(offline["layers"], Path(folder))]
        engine += options.engine
        started = time.perf_counter()
        with running_server(options.results, "--device", options.device, *engine) as server:  # its log stays there
            first_token_s = _first_token_s(server, started)
            print(f"first token through HTTP {first_token_s:.1f} s after the start", flush=True)
            _compile(server, offline["max_model_len"])
            sizes = [row["batch"] for row in offline["rows"] if row["batch"] <= options.most]
            summary = _sweep(server, offline, sizes, options.results)
    result = {
        "hardware": offline["hardware"],
        "commit": offline["commit"],
        "offline": options.offline.name,
        "engine": engine,
        "first_token_s": first_token_s,
        "partial": summary["partial"],
        "rows": compare(offline, summary),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in result["rows"]:
        print(line(row))
    return 0 if not summary["partial"] and all(row["ok"] for row in result["rows"]) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    typed = list(sys.argv[1:] if argv is None else argv)
    split = typed.index("--") if "--" in typed else len(typed)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.http_against_offline", description=__doc__)
    parser.add_argument("offline", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="run folders of the sweeps go here")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--most", type=int, default=64, metavar="N", help="largest size (default: 64)")
    options = parser.parse_args(typed[:split])
    options.engine = typed[split + 1 :]
    if not options.offline.is_file():
        parser.error(f"{options.offline}: no such file; `python -m engine.bench --json` makes it")
    return options


def _cut(layers: int | None, folder: Path) -> list[str]:
    """Options that serve the first layers of the released geometry, where the offline run had no more."""
    if layers is None:
        return []
    from engine.released import cut_layers, ensure_geometry

    return ["--model", str(cut_layers(ensure_geometry(), layers, folder / "geometry"))]


def _first_token_s(server: RunningServer, started: float) -> float:
    status, answer = server.chat("One", max_tokens=1)
    assert status == 200, answer
    return time.perf_counter() - started


def _compile(server: RunningServer, max_model_len: int) -> None:
    """One prompt of each kind of size, as a server that has run for a while has seen them all."""
    random = Random(0)
    for size in PROMPT_SIZES:
        if size < max_model_len:
            body = {"prompt": random.choices(range(1000), k=size), "max_tokens": 2, "temperature": 1}
            status, answer = server.post("/v1/completions", body)
            assert status == 200, answer


def _sweep(server: RunningServer, offline: dict[str, Any], sizes: Sequence[int], results: Path) -> dict[str, Any]:
    """Waves at every size, the first two of which do not count: in them kernels are compiled and chosen."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "summary.json"
        command = [sys.executable, "-c", SWEEP, "sweep", "--backend", f"ming={server.url}"]
        command += ["--concurrency", ",".join(map(str, sizes)), "--arrivals", "waves", "--temperature", "1"]
        command += ["--api", "completions", "--input-tokens", str(offline["prompt_tokens"])]
        command += ["--max-tokens", str(offline["output_tokens"])]
        command += ["--warmup", "2", "--out", str(results), "--json", str(path)]
        code = _run_to_its_end(command)
        if not path.is_file():
            raise RuntimeError(f"the sweep left nothing to read: exit code {code}")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def _run_to_its_end(command: Sequence[str]) -> int:
    """Exit code; whoever ends this process ends the sweep too, which then still writes what it has: wait for it."""
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # not ignored: a child would inherit that
    try:
        return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode
    finally:
        signal.signal(signal.SIGTERM, before)


def compare(offline: dict[str, Any], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each point of the sweep."""
    rates = {row["batch"]: row["output_tok_s"] for row in offline["rows"]}
    num_prompt = offline["prompt_tokens"]
    return [_compared(point, rates[point["concurrency"]], num_prompt) for point in summary["points"]]


def _compared(point: dict[str, Any], offline_tok_s: float, num_prompt: int) -> dict[str, Any]:
    server = point["server"] or {}
    rate, share = point["output_tokens_per_s"], server.get("expert_share")
    ratio = None if rate is None else rate / offline_tok_s
    num_good = point["requests"] - point["failed"]
    computed = ((point["prompt_tokens"] or 0) - (point["cached_tokens"] or 0)) / max(num_good, 1)
    return {
        "concurrency": point["concurrency"],
        "requests": point["requests"],
        "failed": point["failed"],
        "output_tok_s": rate,
        "offline_tok_s": offline_tok_s,
        "ratio": ratio,
        "computed_prompt_tokens": computed,
        "distinct_experts": server.get("distinct_experts"),
        "expert_share": share,
        "ok": not point["failed"]
        and computed == num_prompt
        and ratio is not None
        and ratio >= LEAST_RATIO
        and share is not None
        and share >= LEAST_EXPERTS,
    }


def line(row: dict[str, Any]) -> str:
    """For people."""
    if row["ratio"] is None or row["expert_share"] is None:
        return f"http {row['concurrency']:4}: {row['failed']} of {row['requests']} failed, no figure MISSED"
    return (
        f"http {row['concurrency']:4} {row['output_tok_s']:9.1f} tok/s, offline {row['offline_tok_s']:9.1f}, "
        f"ratio {row['ratio']:.3f}, {row['distinct_experts']:.1f} experts ({row['expert_share']:.0%} of uniform), "
        f"{row['failed']} failed" + ("" if row["ok"] else " MISSED")
    )


if __name__ == "__main__":
    sys.exit(main())
