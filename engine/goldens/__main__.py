"""`python -m engine.goldens DIR [--json PATH]`: run every known case folder of DIR against its tolerance."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from engine.config import Device, DType
from engine.goldens.compare import CaseResult, Check

# Case folder -> module and function here; imported when the case is found, since some need media libraries.
CASES = {
    "a_thinker_text": "thinker:run_text",
    "b_thinker_multirouter": "thinker:run_multirouter",
    "c_position_ids": "towers:run_position_case",
    "d_vision": "towers:run_vision_case",
    "e_audio": "towers:run_audio_case",
    "f_preprocessing": "preprocessing:run_preprocessing",
    "g_end_to_end": "end_to_end:run_end_to_end",
    "h_chat_template": "prompts:run_prompts",
    "dit_blocks": "speech:run_dit",
    "cfm_sampling": "speech:run_cfm",
    "aggregator": "speech:run_aggregator",
    "talker_llm_step": "speech:run_llm_step",
    "vae_decode": "speech:run_vae_decode",
    "vae_encode": "speech:run_vae_encode",
    "silence_trim": "speech_text:run_silence",
    "text_frontend": "speech_text:run_front_end",
    "e2e_talker": "talker:run_talker",
}


# Cases that run on a GPU as well, in float32; the others hold nothing that a GPU would do.
GPU_CASES = frozenset({"a_thinker_text", "b_thinker_multirouter", "d_vision", "e_audio", "g_end_to_end"})

# Cases with logits: in bfloat16 their error is held against that of plain PyTorch.
BFLOAT16_CASES = frozenset({"a_thinker_text", "b_thinker_multirouter", "g_end_to_end"})


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when at least one case ran and all that ran passed."""
    args = _parse(argv)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    if not args.dir.is_dir():
        print(f"{args.dir}: no such directory; give a folder that holds case folders", file=sys.stderr)
        return 2
    folders = sorted(p for p in args.dir.iterdir() if p.is_dir())
    if args.dir.name in CASES:
        folders = [args.dir]
    known = _cases(args.device, args.dtype)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = [run_case(folder, args.device, args.dtype) for folder in folders if folder.name in known]
    report = sys.stderr if args.json == "-" else sys.stdout  # the JSON alone must be parseable
    for result in results:
        print(line(result), file=report)
    unknown = [folder.name for folder in folders if folder.name not in CASES]
    if unknown:
        print(f"not known yet, not run: {', '.join(unknown)}", file=report)
    if not results:
        print(f"{args.dir}: no case folder in it to run; there are {', '.join(sorted(known))}", file=sys.stderr)
    if args.json:
        _write_json(args.json, results, unknown)
    return 0 if results and all(result.ok for result in results) else 1


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.goldens",
        description="Run reference cases of the released code and compare within their stated tolerances.",
        epilog="examples:\n  python -m engine.goldens tests/goldens/understanding --json goldens.json\n"
        "  python -m engine.goldens tests/goldens/understanding --device cuda --dtype bfloat16",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of case folders, or one case folder")
    parser.add_argument("--json", metavar="PATH", help="also write every comparison here; - is standard output")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda runs the cases that use one")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16 runs the cases that have logits: their error may be twice that of plain PyTorch in bfloat16",
    )
    return parser.parse_args(argv)


def _cases(device: Device, dtype: DType) -> Set[str]:
    """What runs there."""
    if dtype == "bfloat16":
        return BFLOAT16_CASES
    return CASES.keys() if device == "cpu" else GPU_CASES


def run_case(folder: Path, device: Device = "cpu", dtype: DType = "float32") -> CaseResult:
    """Run one case folder; a case that cannot run has failed."""
    module, _, function = (CASES[folder.name] if dtype == "float32" else "bfloat16:run_bfloat16").partition(":")
    try:
        run = getattr(importlib.import_module(f"engine.goldens.{module}"), function)
        result: CaseResult = run(folder) if device == "cpu" else run(folder, device)
    except Exception as error:  # noqa: BLE001 - whatever stops one case, it has failed and the others are still to run
        result = CaseResult(folder.name)
        result.checks.append(
            Check("the case itself", False, math.inf, f"cannot be run: {type(error).__name__}: {error}")
        )
    return result


def line(result: CaseResult) -> str:
    """One line: verdict, number of checks, and the check closest to (or beyond) its tolerance."""
    worst = result.worst
    if worst is None:
        return f"FAIL {result.case}: nothing to compare"
    share = "mismatch" if math.isinf(worst.error) else f"{worst.error:.3f} of its tolerance"
    verdict = "ok  " if result.ok else "FAIL"
    detail = f" ({worst.detail})" if worst.detail else ""
    failed = sum(not check.ok for check in result.checks)
    count = f"{failed} of {len(result.checks)} checks failed" if failed else f"{len(result.checks)} checks"
    return f"{verdict} {result.case}: {count}, largest error {share} at {worst.name}{detail}"


def _write_json(path: str, results: list[CaseResult], unknown: list[str]) -> None:
    def number(x: float) -> float | None:
        return x if math.isfinite(x) else None

    table: dict[str, Any] = {
        "cases": [
            {
                "case": result.case,
                "ok": result.ok,
                "checks": [
                    {"name": c.name, "ok": c.ok, "error_of_tolerance": number(c.error), "detail": c.detail}
                    for c in result.checks
                ],
            }
            for result in results
        ],
        "unknown": unknown,
    }
    text = json.dumps(table, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
