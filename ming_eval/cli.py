"""The command line: which commands there are. What they do is in `ming_eval.commands`.

Nothing that is slow to import is imported here: `ming-eval --help` answers at once.
"""

from __future__ import annotations

import sys
from copy import copy
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ming_eval.commands import accuracy as scoring
from ming_eval.commands import compare as comparing
from ming_eval.commands import coverage as covering
from ming_eval.commands import doctor as examining
from ming_eval.commands import engine, listing, stored
from ming_eval.commands import report as reporting
from ming_eval.commands import rerun as rerunning
from ming_eval.commands import rescore as rescoring
from ming_eval.commands import sweep as sweeping
from ming_eval.commands.strict import StrictCommand

EXAMPLES = """
\b
Examples:
  ming-eval sweep --concurrency 1..32
      measure the bundled engine with its embedded tiny model
  ming-eval sweep --backend mine=http://localhost:8000
      measure a server that is running
  ming-eval doctor http://localhost:8000
      what a server can do, and what will not be measurable
  ming-eval coverage
      which of text, images, audio and video work, and how fast
  ming-eval accuracy mmlu gsm8k
      how often the answers are right; `ming-eval accuracy --list` shows suites
  ming-eval serve --model ./Ming-flash-omni-2.0 --tp 4
      serve a checkpoint
  ming-eval runs
      what has been measured

\b
Exit codes: 0 done; 1 done, with more failed requests than --max-error-rate,
or with a failed gate or an inexact rerun;
2 wrong usage; 3 server not there; 4 data or results cannot be read or written;
130 interrupted, what there is has been written.
"""


class _CommandLine(TyperGroup):
    """Keeps the words as typed, for the manifest of a run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = tuple(args)
        return super().parse_args(ctx, args)


# Plain help: rich would take twice as long to import as everything else together.
app = typer.Typer(
    cls=_CommandLine, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
model_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"ming-eval {version('ming-eval')}")
        except PackageNotFoundError:
            typer.echo("ming-eval, from a source tree that is not installed")
        raise typer.Exit


@app.callback(epilog=EXAMPLES)
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Benchmarks and evaluation for omni-modal inference servers."""


app.command("serve", help=engine.SERVE_HELP, epilog=engine.SERVE_EXAMPLES, context_settings=engine.PASS_ON)(
    engine.serve
)
app.command("sweep", cls=StrictCommand, epilog=sweeping.EXAMPLES, context_settings={"allow_extra_args": True})(
    sweeping.sweep
)
app.command("rerun", cls=StrictCommand, epilog=rerunning.EXAMPLES)(rerunning.rerun)
app.command("compare", cls=StrictCommand, epilog=comparing.EXAMPLES)(comparing.compare)
app.command("coverage", cls=StrictCommand, epilog=covering.EXAMPLES, context_settings={"allow_extra_args": True})(
    covering.coverage
)
app.command("accuracy", cls=StrictCommand, epilog=scoring.EXAMPLES)(scoring.accuracy)
app.command("rescore", cls=StrictCommand, epilog=rescoring.EXAMPLES)(rescoring.rescore)
app.command("runs", cls=StrictCommand, epilog=stored.RUNS_EXAMPLES)(stored.runs)
app.command("report", cls=StrictCommand, epilog=reporting.EXAMPLES)(reporting.report)
app.command("doctor", cls=StrictCommand, epilog=examining.EXAMPLES)(examining.doctor)
app.command("list", cls=StrictCommand, epilog=listing.EXAMPLES)(listing.list_names)

model_app.command("inspect", epilog=engine.INSPECT_EXAMPLES, context_settings=engine.PASS_ON)(engine.inspect)
model_app.command("verify", epilog=engine.VERIFY_EXAMPLES, context_settings=engine.PASS_ON)(engine.verify)
app.add_typer(model_app, name="model", help="Look into a checkpoint.", epilog=engine.MODEL_EXAMPLES)


def main() -> None:
    """Entry point of the `ming-eval` script."""
    try:
        _with_only(sys.argv[1] if len(sys.argv) > 1 else "")()
    except KeyboardInterrupt:  # while modules are still read
        sys.exit(130)


def _with_only(name: str) -> typer.Typer:
    """The application with the command of this name alone, so that the options of the others cost no time."""
    found = [command for command in app.registered_commands if command.name == name]
    if not found:
        return app
    one = copy(app)
    one.registered_commands, one.registered_groups = found, []
    return one
