"""`ming-eval compare`: stored runs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show
from ming_eval.errors import UsageError

if TYPE_CHECKING:
    from ming_eval.compare.comparison import Comparison
    from ming_eval.compare.gate import Crossing

EXAMPLES = """
\b
Examples:
  ming-eval compare results/20260615T101500Z-sweep-a results/20260615T103000Z-sweep-b
      the second run against the first, over the requests that both got
  ming-eval compare 20260615T101500Z-sweep-a-b
      the backends of one run
  ming-eval compare OLD NEW --agreement
      how often both gave the same answer, and where the answers part
  ming-eval compare OLD NEW --fail-on "ttft_ms.p99>+5%" --fail-on "output_tokens_per_s<-3%"
      exit code 1 when the new run is worse than that and chance does not explain it
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What `--json` writes."""

    comparisons: list[Comparison]
    crossings: list[Crossing]


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders or names of runs; the first is the base.")
    ],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Exit with 1 when a figure crosses a limit, such as 'ttft_ms.p99>+5%'; repeatable.",
        ),
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Compare what was answered instead of how fast.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compare runs that were not asked the same, too.")] = False,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Compare stored runs: paired ratios, their intervals, one verdict."""
    with exit_on_error():
        from ming_eval.compare.comparison import compare_all
        from ming_eval.compare.figures import IN_TABLE
        from ming_eval.compare.gate import Condition, crossings
        from ming_eval.compare.system import load_systems
        from ming_eval.compare.tables import comparison_text
        from ming_eval.run_folder import find_run

        if agreement:
            _compare_answers([find_run(run, out).resolve() for run in runs], fail_on, json_path, force=force)
            return
        conditions = [Condition.parse(text) for text in fail_on or ()]
        names = list(dict.fromkeys([*IN_TABLE, *(condition.figure for condition in conditions)]))
        systems = load_systems(list(dict.fromkeys(find_run(run, out).resolve() for run in runs)))
        comparisons = compare_all(systems, names=names, force=force)
        crossed = crossings(conditions, comparisons)
        text = comparison_text(comparisons) + "".join(f"\n{crossing}" for crossing in crossed)
        show(text.rstrip("\n") + "\n", Result(comparisons, crossed), json_path)
    raise typer.Exit(int(any(crossing.is_shown for crossing in crossed)))


def _compare_answers(
    folders: Sequence[Path], fail_on: Sequence[str] | None, json_path: str | None, *, force: bool
) -> None:
    from ming_eval.compare.agreement import agree_all
    from ming_eval.compare.system import load_systems
    from ming_eval.compare.tables import agreement_text

    if fail_on:
        raise UsageError("--fail-on is about speed and does not go with --agreement")
    agreements = agree_all(load_systems(list(dict.fromkeys(folders))), force=force)
    show(agreement_text(agreements), agreements, json_path)
