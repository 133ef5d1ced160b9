"""`python -m engine.bench`: decode and prefill rates by batch size, without HTTP."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.bench.age import process_age_s
from engine.bench.files import write_whole
from engine.bench.limits import device_name, part_bytes, step_bytes
from engine.bench.offline import DecodeRate, Offline, PrefillRate, parse_batches, parse_count, parse_shapes
from engine.bench.parts import part_lines, part_times
from engine.bench.profile import kernel_times, launches_of
from engine.bench.variants import compare, parse_variants
from engine.child import leave
from engine.config import EngineConfig, Quant
from engine.errors import EngineError
from engine.kernels.paths import DEFAULT, VARIANTS
from engine.model_config import LLMConfig
from engine.runtime.build import LoadedEngine
from engine.runtime.start import start_engine
from engine.source import command_line, source_commit

_EXAMPLES = """\
examples:
  python -m engine.bench --tp 2 --json gpu-decode.json              the released geometry, drawn weights
  python -m engine.bench --layers 8 --batches 1,32 --profile 32     some layers on one GPU, and a step's kernels
  python -m engine.bench --model PATH --load-format checkpoint      real weights
  python -m engine.bench --tp 2 --batches 1,8 --variants each       the ways of launch-bound kernels side by side
  python -m engine.bench --talker --json talker.json                speech: real-time factor, first audio
  python -m engine.bench --quant-error                              errors of fp8 and int4 against the plain model
"""
PROFILED_STEPS = 20
QUANTS: tuple[Quant, ...] = ("fp8", "int4")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 measured, 1 requests failed, 2 options or machine do not allow it."""
    parser = _parser()
    options = parser.parse_args(argv)
    if wrong := _wrong_together(options):
        parser.error(wrong)
    if options.talker:
        from engine.stages.bench import main as time_talker  # imported late: the thinker's figures need none of it

        passed = {"--json": options.json, "--commit": options.commit}
        return time_talker([str(part) for pair in passed.items() if pair[1] is not None for part in pair])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with tempfile.TemporaryDirectory(prefix="ming-bench-") as folder:
            if options.variants:
                given = sys.argv[1:] if argv is None else argv
                return compare(options.variants, _without(given, "--variants", "--json"), Path(folder), options.json)
            return report_quant_error(options, Path(folder)) if options.quant_error else run(options, Path(folder))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _wrong_together(options: argparse.Namespace) -> str | None:
    """What would be found out only when the model is loaded."""
    if options.output_tokens < 2:
        return "--output-tokens: want 2 or more, decode rates are those of the tokens behind the first"
    if options.profile and (options.device == "cpu" or not torch.cuda.is_available()):
        return "--profile lists kernels of a GPU, and there is none here"
    if options.json is not None and not options.json.parent.is_dir():
        return f"--json {options.json}: there is no directory {options.json.parent}"
    decoded = options.prompt_tokens + max(options.output_tokens, 1 + PROFILED_STEPS if options.profile else 0)
    longest = max([decoded, *(tokens + 1 for _, tokens in options.prefill)])
    if not (options.talker or options.quant_error) and longest > options.max_model_len:
        return f"--max-model-len {options.max_model_len}: prompt and answer of a stream take {longest} tokens"
    return None


def run(options: argparse.Namespace, folder: Path) -> int:
    """Measure everything that was asked for, writing the file after each figure: time on a GPU can end."""
    bytes_per_s, measuring_s = _bytes_per_s()  # before the cache takes the memory
    loaded, loop = start_engine(_config(options, folder))
    bench = Offline(loaded, loop, repeats=options.repeats)
    bench.run(1, options.prompt_tokens, 2)
    first_token_s = process_age_s() - measuring_s
    size = step_bytes(loaded)
    result: dict[str, Any] = _header(options, loaded.info.dtype, first_token_s, loaded.info.load_s, bytes_per_s)
    print(f"{result['hardware']}: first token {first_token_s:.1f} s after the start", file=sys.stderr)

    def limit(batch: int, distinct: float) -> float:
        return batch / size.step_s(distinct, bytes_per_s)

    failed = 0
    for batch in options.batches:
        rate = bench.decode(batch, options.prompt_tokens, options.output_tokens)
        failed += rate.failed
        row = _row(rate, limit, loaded.runner.model.cfg.llm)
        result["rows"].append(row | {"tokens": rate.tokens} if options.keep_tokens else row)
        _show(options, result, _decode_line(result["rows"][-1]))
    for step_tokens in options.prefill_steps or [None]:
        for batch, tokens in options.prefill:
            prefill = bench.prefill(batch, tokens, step_tokens)
            failed += prefill.failed
            result["prefill"].append(asdict(prefill))
            _show(options, result, _prefill_line(prefill))
    for batch in options.profile:
        _profile(options, result, bench, loaded, batch)
    return 1 if failed else 0


def _profile(
    options: argparse.Namespace, result: dict[str, Any], bench: Offline, loaded: LoadedEngine, batch: int
) -> None:
    """Kernels and parts of a decode step, into `result`."""
    launches = launches_of(partial(bench.run, batch, options.prompt_tokens, 1 + PROFILED_STEPS))
    times = kernel_times(launches, PROFILED_STEPS)
    result["kernels"][str(batch)] = [asdict(row) for row in times]
    lines = [f"{row.us:10.1f} us {row.launches:7.1f} launches  {row.kernel}" for row in times[:40]]
    _show(options, result, f"one step of {batch}, prefill's kernels included:\n" + "\n".join(lines))
    counted = next((row["distinct_experts"] for row in result["rows"] if row["batch"] == batch), None)
    distinct = _uniform_experts(loaded.runner.model.cfg.llm, batch) if counted is None else counted
    num_bytes = part_bytes(loaded, batch, distinct, options.prompt_tokens + PROFILED_STEPS / 2)
    parts = part_times(launches, num_bytes, result["bytes_per_s"])
    result["parts"][str(batch)] = [asdict(row) for row in parts]
    found = part_lines(parts) if parts else ["no steps from captured graphs"]
    _show(options, result, f"parts of one step of {batch}, on the clock, beside their bytes:\n" + "\n".join(found))


def report_quant_error(options: argparse.Namespace, folder: Path) -> int:
    """What `--quant` costs in accuracy, both formats where none is named."""
    from engine.quant_error import measure

    config = _config(options, folder)
    errors: list[dict[str, Any]] = []
    for quant in QUANTS if config.quant == "none" else (config.quant,):
        found = measure(replace(config, quant=quant))
        errors.append(found.as_json())
        result = {"hardware": device_name(1), "commit": options.commit, "torch": torch.__version__, "errors": errors}
        _show(options, result, "\n".join(found.lines()))
    return 0


def _without(arguments: Sequence[str], *options: str) -> list[str]:
    """`arguments` less `options` and their values, in either spelling."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument.split("=")[0] not in options:
            kept.append(argument)
        skip = argument in options
    return kept


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.bench",
        description="Decode and prefill rates of the engine without HTTP. By default the released geometry with "
        "drawn weights.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `_without` knows options by their names: --variant would reach its runs, and theirs
    )
    add = parser.add_argument
    add("--model", type=Path, help="directory with config.json (default: the released geometry)")
    add("--load-format", choices=("generated", "checkpoint"), default="generated", help="default: generated")
    add("--layers", type=parse_count, metavar="N", help="keep the first N layers of the geometry; for kernel work")
    add("--tp", type=parse_count, default=1, metavar="N", help="ranks, one GPU each (default: 1)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: bfloat16")
    add("--quant", choices=("none", "fp8", "int4"), default="none", help="weights in 8 or 4 bits (default: none)")
    add("--quant-error", action="store_true", help="only measure what --quant costs, layer by layer, on one device")
    add("--talker", action="store_true", help="only time the talker: real-time factor and first audio")
    add("--eager", action="store_true", help="no CUDA graphs")
    add("--no-peer-sums", action="store_true", help="sum over GPUs through NCCL alone")
    add("--paths", choices=tuple(VARIANTS), default=DEFAULT, help=f"kernels of a decode step (default: {DEFAULT})")
    add(
        "--variants",
        type=parse_variants,
        metavar="NAME,...",
        help=f"measure by several --paths, one after the other; each: {', '.join(VARIANTS)}",
    )
    add("--keep-tokens", action="store_true", help="also write what each stream said")
    add("--commit", default=source_commit(), help="what to record where git does not know it")
    add("--batches", type=parse_batches, default=[1, 2, 4, 8, 16, 32, 64], help="default: 1,2,4,8,16,32,64")
    add("--prompt-tokens", type=parse_count, default=64, metavar="N", help="default: 64")
    add("--output-tokens", type=parse_count, default=128, metavar="N", help="default: 128")
    add("--prefill", type=parse_shapes, default=[], metavar="BxN,...", help="prompts to time: 1x1024,1x3500,8x3500")
    steps_help = "time prompts in steps of at most N tokens, for each N (default: as --step-tokens)"
    add("--prefill-steps", type=parse_batches, default=[], metavar="N,...", help=steps_help)
    add("--repeats", type=parse_count, default=3, metavar="N", help="the median counts (default: 3)")
    add("--step-tokens", type=parse_count, metavar="N", help="most tokens of one step (default: as `python -m engine`)")
    add("--max-model-len", type=parse_count, default=8192, metavar="N", help="default: 8192")
    add("--profile", type=parse_batches, default=[], metavar="B,...", help="kernels and parts of a step of B sequences")
    add("--json", type=Path, metavar="PATH", help="also write everything here")
    return parser


def _config(options: argparse.Namespace, folder: Path) -> EngineConfig:
    from engine.released import cut_layers, ensure_geometry

    model = options.model or ensure_geometry()
    if options.layers is not None:
        model = cut_layers(model, options.layers, folder / "geometry")
    return EngineConfig(
        model=str(model),
        device=options.device,
        dtype=options.dtype,
        load_format=options.load_format,
        quant=options.quant,
        tp=options.tp,
        max_model_len=options.max_model_len,
        step_tokens=options.step_tokens,
        step_requests=max([*options.batches, *options.profile, *(batch for batch, _ in options.prefill)]),
        eager=options.eager,
        peer_sums=not options.no_peer_sums,
        decode_paths=options.paths,
    )


def _header(
    options: argparse.Namespace, dtype: str, first_token_s: float, load_s: float, bytes_per_s: float
) -> dict[str, Any]:
    return {
        "hardware": device_name(options.tp),
        "tp": options.tp,
        "dtype": dtype,
        "quant": options.quant,
        "paths": options.paths,
        "commit": options.commit,
        "torch": torch.__version__,
        "command": command_line("engine.bench", sys.argv[1:]),
        "layers": options.layers,
        "prompt_tokens": options.prompt_tokens,
        "output_tokens": options.output_tokens,
        "max_model_len": options.max_model_len,
        "bytes_per_s": bytes_per_s,
        "load_s": load_s,
        "first_token_s": first_token_s,
        "rows": [],
        "prefill": [],
        "kernels": {},
        "parts": {},
    }


def _row(rate: DecodeRate, limit: Callable[[int, float], float], llm: LLMConfig) -> dict[str, Any]:
    """A row of the file; valid where at least 95 % of the experts that uniform routing would touch were touched."""
    uniform, distinct = _uniform_experts(llm, rate.batch), rate.distinct_experts
    return {key: value for key, value in asdict(rate).items() if key != "tokens"} | {
        "share_of_limit": None if distinct is None else rate.decode_tok_s / limit(rate.batch, distinct),
        "uniform_experts": uniform,
        "valid": distinct is not None and distinct >= 0.95 * uniform,
    }


def _uniform_experts(llm: LLMConfig, batch: int) -> float:
    """Distinct experts of a layer if every token chose evenly."""
    return llm.num_experts * (1 - (1 - llm.num_experts_per_tok / llm.num_experts) ** batch)


def _decode_line(row: dict[str, Any]) -> str:
    share, distinct = row["share_of_limit"], row["distinct_experts"]
    return (
        f"decode {row['batch']:4} {row['decode_tok_s']:9.1f} tok/s "
        + ("" if share is None else f"{share:6.1%} of the limit, ")
        + f"{row['output_tok_s']:9.1f} tok/s with prefill, first token {1e3 * row['first_token_s']:7.1f} ms, "
        + ("no experts seen" if distinct is None else f"{distinct:6.1f} experts of {row['uniform_experts']:6.1f}")
        + ("" if row["valid"] else " INVALID")
        + (f", {row['failed']} FAILED" if row["failed"] else "")
    )


def _prefill_line(rate: PrefillRate) -> str:
    steps = "" if rate.step_tokens is None else f", steps of {rate.step_tokens}"
    failed = f", {rate.failed} FAILED" if rate.failed else ""
    return f"prefill {rate.batch} x {rate.tokens}: {1e3 * rate.seconds:8.1f} ms, {rate.tok_s:9.0f} tok/s{steps}{failed}"


def _show(options: argparse.Namespace, result: dict[str, Any], line: str) -> None:
    print(line, flush=True)
    if options.json is not None:
        write_whole(options.json, result)


def _bytes_per_s() -> tuple[float, float]:
    """What one device reads, measured, and seconds that took; a round figure off the GPU, where rates mean nothing."""
    if not torch.cuda.is_available():
        return 1e10, 0.0
    from engine.kernels.bench.timing import measure_read

    torch.zeros(1, device="cuda")  # an engine would have started the device, too
    started = time.perf_counter()
    found = measure_read()
    torch.cuda.empty_cache()
    return found, time.perf_counter() - started


if __name__ == "__main__":
    leave(main())
