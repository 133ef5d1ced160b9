"""`ming-eval serve` and `ming-eval model`: the bundled engine as a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ming_eval.commands.common import exit_on_error

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

SERVE_HELP = """
Serve a model over the OpenAI API.

Every option is passed on to `python -m engine`; `ming-eval serve -- --help`
shows all of them. Ctrl-C or SIGTERM lets running requests finish.

\b
Main options:
  --model PATH|ID           checkpoint directory or hub id
                            [default: an embedded tiny model, random weights]
  --tokenizer PATH          tokenizer files, where the checkpoint has none
  --host ADDRESS            address to listen on [default: 127.0.0.1]
  --port PORT               port to listen on, 0 for any free one [default: 8000]
  --served-model-name NAME  model name that clients use
  --tp N                    ranks of tensor parallelism [default: 1]
  --device cpu|cuda         where the model runs
  --dtype TYPE              float32, bfloat16 or float16 [default: as stored]
  --quant fp8|int4          pack the large weights while loading: 8 bits, or
                            4 for the experts [default: none]
  --memory-fraction F       share of device memory to use [default: 0.9]
  --speech auto|off|only    speak where the checkpoint has a talker; never; or
                            only speak, without the rest of the model
  --talker-device DEVICE    cpu, cuda, cuda:N or auto [default: as the model]
  --skip-tokenizer          token ids in and out only
  --api-key-file PATH       keys that clients must send, one a line
  --max-queue N             waiting requests above which new ones get HTTP 429
  --drain-timeout SECONDS   how long running requests may take to end on SIGTERM
"""

SERVE_EXAMPLES = """
\b
Examples:
  ming-eval serve
  ming-eval serve --model ./Ming-flash-omni-2.0 --tp 4 --port 8000
  ming-eval serve --model ORG/NAME --revision COMMIT --device cuda
  ming-eval serve --host 0.0.0.0 --api-key-file keys.txt
"""

INSPECT_EXAMPLES = """
\b
Examples:
  ming-eval model inspect
  ming-eval model inspect ./Ming-flash-omni-2.0
  ming-eval model inspect ./Ming-flash-omni-2.0 --tp 4 --dtype bfloat16 --memory 141
"""

VERIFY_EXAMPLES = """
\b
Examples:
  ming-eval model verify ./Ming-flash-omni-2.0
"""

MODEL_EXAMPLES = """
\b
Examples:
  ming-eval model inspect ./Ming-flash-omni-2.0
      what it holds, and what it needs on one device
  ming-eval model inspect ./Ming-flash-omni-2.0 --tp 4 --dtype bfloat16 --memory 141
      whether it fits on 4 devices of 141 GiB each
  ming-eval model inspect ./Ming-flash-omni-2.0 --quant int4 --memory 78
      whether it fits on one device with its experts in 4 bits
  ming-eval model inspect ./Ming-flash-omni-2.0 --json -
      everything as JSON
  ming-eval model verify ./Ming-flash-omni-2.0
      every tensor name against the loader
"""

ModelPath = Annotated[
    Path | None, typer.Argument(metavar="PATH", help="Checkpoint directory.", show_default="the embedded tiny model")
]


def serve(ctx: typer.Context) -> None:
    """Serve a model (the text that users see is `SERVE_HELP`)."""
    from ming_eval.launch import run_server

    with exit_on_error():
        raise typer.Exit(run_server(ctx.args))


def inspect(ctx: typer.Context, path: ModelPath = None) -> None:
    """Show what a checkpoint holds and needs.

    Options: --tp N (tensor-parallel ranks), --dtype auto|float32|bfloat16|float16 (weights and cache),
    --quant none|fp8|int4 (large weights, as serve packs them), --memory GIB
    (of one device, e.g. 141), --json PATH (everything; - is standard output).
    """
    _run(["inspect", *_given(path), *ctx.args])


def verify(ctx: typer.Context, path: ModelPath = None) -> None:
    """Check a checkpoint against the loader. No weights are read."""
    _run(["verify", *_given(path), *ctx.args])


def _given(path: Path | None) -> list[str]:
    return [] if path is None else [str(path)]


def _run(args: list[str]) -> None:
    from ming_eval.launch import run_engine

    with exit_on_error():
        raise typer.Exit(run_engine(args))
