"""`python -m engine.kernels.bench`: check every kernel against its reference, then time it."""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from engine.kernels.bench.attention import attention_cases
from engine.kernels.bench.case import Case, Run, Sizes, Source
from engine.kernels.bench.experts import expert_cases
from engine.kernels.bench.quantised import quantised_expert_cases, quantised_linear_cases
from engine.kernels.bench.sampling import sampling_cases
from engine.kernels.bench.step import step_cases
from engine.kernels.bench.timing import Ceilings, eager_s, measure_ceilings, replay_s
from engine.kernels.bench.tokens import token_cases
from engine.kernels.triton_support import TritonError
from engine.source import command_line, source_commit

GROUPS: dict[str, Callable[[Source], Iterator[Case]]] = {
    "tokens": token_cases,
    "attention": attention_cases,
    "experts": expert_cases,
    "experts-fp8": partial(quantised_expert_cases, "fp8"),
    "experts-int4": partial(quantised_expert_cases, "int4"),
    "linear-fp8": quantised_linear_cases,
    "sampling": sampling_cases,
    "step": step_cases,
}
SEED = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One variant of one case. Times are null where the check failed: a wrong kernel has no speed."""

    kernel: str
    size: str
    variant: str
    ok: bool
    error: float | None
    bound: float
    us: float | None
    limit_us: float
    share: float | None
    gb_s: float | None
    tflop_s: float | None
    reference_us: float | None
    failure: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all right, 1 a kernel is wrong or does not run, 2 no GPU."""
    options = _parse(argv)
    if not torch.cuda.is_available():
        print("error: this benchmark needs a CUDA GPU and torch built for it; none is available here", file=sys.stderr)
        return 2
    torch.manual_seed(SEED)
    ceilings = measure_ceilings()
    source = Source(sizes(options.tokens), torch.device("cuda"), torch.bfloat16)
    rows: list[Row] = []
    to_file = options.json not in (None, "-")
    for case in (chosen(case, options.variants) for case in cases(source, options.only)):
        for row in measure(case, ceilings):
            rows.append(row)
            print(line(row), file=sys.stderr if options.json == "-" else sys.stdout, flush=True)
        if to_file:  # after every case: time on a GPU can end at any moment
            Path(options.json).write_text(table(ceilings, rows, options.commit), encoding="utf-8")
    if options.json == "-":
        sys.stdout.write(table(ceilings, rows, options.commit))
    return 0 if all(row.ok for row in rows) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m engine.kernels.bench",
        description="Check and time every kernel at the released model's sizes on one rank of two.",
        epilog="example: python -m engine.kernels.bench --only experts --json kernels.json",
    )
    parser.add_argument("--only", choices=sorted(GROUPS), help="run one group of kernels")
    parser.add_argument("--tokens", type=int, nargs="+", metavar="N", help="run these batches only, decode or prefill")
    parser.add_argument(
        "--variants", nargs="+", metavar="START", help="time those only whose names start so, e.g. split widened"
    )
    parser.add_argument("--json", metavar="PATH", help="also write every row here; - is standard output")
    parser.add_argument("--commit", default=source_commit(), help="what to record where git does not know it")
    return parser.parse_args(argv)


def sizes(tokens: Sequence[int] | None) -> Sizes:
    """The released model's sizes, with all batches or with these."""
    released = Sizes()
    if not tokens:
        return released
    most = max(released.decodes)
    return replace(
        released,
        decodes=tuple(n for n in tokens if n <= most),
        prefills=tuple(n for n in tokens if n > most),
    )


def chosen(case: Case, starts: Sequence[str] | None) -> Case:
    """The case with those of its variants whose names start with one of `starts`."""
    if not starts:
        return case
    return replace(case, variants={n: run for n, run in case.variants.items() if n.startswith(tuple(starts))})


def cases(source: Source, only: str | None) -> Iterator[Case]:
    """The cases of one group or of all, built one at a time."""
    for name, group in GROUPS.items():
        if only in (None, name):
            yield from group(source)


def measure(case: Case, ceilings: Ceilings) -> Iterator[Row]:
    """Check and time the variants of a case; one that raises is reported and the others go on."""
    limit_s = ceilings.limit_s(case.num_bytes, case.num_flops)
    reference_us = _reference_us(case)
    for name, run in case.variants.items():
        error, failure, us = None, None, None
        try:
            error = check(case, run)
            if error is None:
                failure = "its outputs hold NaN or infinity"
            elif error <= case.bound:
                us = 1e6 * replay_s(run, case.num_sets)
        except (RuntimeError, TritonError) as raised:  # does not compile, does not fit, or fails on the device
            failure = f"{type(raised).__name__}: {raised}".splitlines()[0]
        yield Row(
            case.kernel,
            case.size,
            name,
            us is not None,
            error,
            case.bound,
            us,
            1e6 * limit_s,
            None if us is None else 1e6 * limit_s / us,
            None if us is None else case.num_bytes / us / 1e3,
            None if us is None else case.num_flops / us / 1e6,
            reference_us,
            failure,
        )


def _reference_us(case: Case) -> float | None:
    try:
        return 1e6 * eager_s(case.reference, case.num_sets)
    except torch.OutOfMemoryError:  # it gathers and converts where the kernel does not
        return None


def check(case: Case, run: Run) -> float | None:
    """The largest error over the input sets, with outputs poisoned before each run; None if one is not finite."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # new tensors hold NaN
    try:
        errors = [case.error(case.view(run(i)), case.view(case.exact(i))) for i in range(case.num_sets)]
    finally:
        torch.use_deterministic_algorithms(False)
    return max(errors) if all(math.isfinite(error) for error in errors) else None


def line(row: Row) -> str:
    """One row of the table."""
    name = f"{row.kernel:18} {row.size:22} {row.variant:18}"
    if row.us is None or row.share is None:
        return f"{name} WRONG: {row.failure or f'error {row.error:.2e} above {row.bound:.0e}'}"
    reference = "does not fit" if row.reference_us is None else f"{row.reference_us:9.1f} us"
    rate = f"{row.tflop_s:7.1f} TFLOP/s" if row.tflop_s and row.tflop_s > 100 else f"{row.gb_s:7.0f} GB/s   "
    return (
        f"{name} {row.us:9.1f} us {rate} {row.share:6.1%} of the limit {row.limit_us:8.1f} us; "
        f"reference {reference}; error {row.error:.1e}"
    )


def table(ceilings: Ceilings, rows: Sequence[Row], commit: str | None) -> str:
    """All rows as JSON, with what they were measured on."""
    content = {
        "hardware": torch.cuda.get_device_name(),
        "command": command_line("engine.kernels.bench", sys.argv[1:]),
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "ceilings": asdict(ceilings),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
