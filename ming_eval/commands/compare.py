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
    from ming_eval.compare.accuracy import AccuracyComparison
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
  ming-eval compare results/20260615T101500Z-accuracy-a results/20260616T090000Z-accuracy-a
      accuracy runs, item by item: who is right where the other is not, McNemar's test, groups
  ming-eval compare OLD NEW --fail-on "accuracy<-2pt" --fail-on "mmlu:accuracy<0.75"
      a gate for accuracy runs, in points or by the value itself
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What `--json` writes."""

    comparisons: list[Comparison] | list[AccuracyComparison]
    crossings: list[Crossing]


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders or names of runs; the first is the base.")
    ],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Exit with 1 when a figure crosses a limit, such as 'ttft_ms.p99>+5%' or 'accuracy<-2pt'; repeatable.",
        ),
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Of loads: compare what was answered instead of how fast.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compare runs that were not asked the same, too.")] = False,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Compare stored runs: speed of loads by paired ratios, accuracy item by item; intervals, one verdict."""
    with exit_on_error():
        from ming_eval.run_folder import find_run

        folders = list(dict.fromkeys(find_run(run, out).resolve() for run in runs))
        if _are_accuracy_runs(folders):
            crossed = _compare_accuracy(folders, fail_on or (), json_path, agreement=agreement, force=force)
        elif agreement:
            _compare_answers(folders, fail_on, json_path, force=force)
            return
        else:
            crossed = _compare_speed(folders, fail_on or (), json_path, force=force)
    raise typer.Exit(int(any(crossing.is_shown for crossing in crossed)))


def _are_accuracy_runs(folders: Sequence[Path]) -> bool:
    """True when all are.

    Raises:
        UsageError: some are and some are not.
    """
    from ming_eval import manifest as manifests
    from ming_eval.report.runs_table import command_of

    kinds = [command_of(manifests.read(folder).command) == "accuracy" for folder in folders]
    if len(set(kinds)) > 1:
        raise UsageError("an accuracy run and another one do not compare: name runs of one kind")
    return kinds[0]


def _compare_speed(
    folders: Sequence[Path], fail_on: Sequence[str], json_path: str | None, *, force: bool
) -> list[Crossing]:
    from ming_eval.compare.comparison import compare_all
    from ming_eval.compare.figures import IN_TABLE
    from ming_eval.compare.gate import Condition, crossings
    from ming_eval.compare.system import load_systems
    from ming_eval.compare.tables import comparison_text

    conditions = [Condition.parse(text) for text in fail_on]
    names = list(dict.fromkeys([*IN_TABLE, *(condition.figure for condition in conditions)]))
    comparisons = compare_all(load_systems(folders), names=names, force=force)
    crossed = crossings(conditions, comparisons)
    _show(comparison_text(comparisons), Result(comparisons, crossed), json_path)
    return crossed


def _compare_accuracy(
    folders: Sequence[Path], fail_on: Sequence[str], json_path: str | None, *, agreement: bool, force: bool
) -> list[Crossing]:
    from ming_eval.commands.rescore import accuracy_summary
    from ming_eval.compare.accuracy_gate import AccuracyCondition, accuracy_crossings
    from ming_eval.compare.accuracy_runs import compare_runs, read_runs
    from ming_eval.compare.accuracy_tables import comparison_text

    if agreement:
        raise UsageError("leave out --agreement: a comparison of accuracy runs always has the share of same answers")
    conditions = [AccuracyCondition.parse(text) for text in fail_on]
    summaries = [accuracy_summary(folder) for folder in folders]  # writes the item lines of a run that was killed
    comparisons = compare_runs(read_runs(folders, summaries), force=force)
    crossed = accuracy_crossings(conditions, comparisons)
    _show(comparison_text(comparisons), Result(comparisons, crossed), json_path)
    return crossed


def _show(text: str, result: Result, json_path: str | None) -> None:
    lines = text + "".join(f"\n{crossing}" for crossing in result.crossings)
    show(lines.rstrip("\n") + "\n", result, json_path)


def _compare_answers(
    folders: Sequence[Path], fail_on: Sequence[str] | None, json_path: str | None, *, force: bool
) -> None:
    from ming_eval.compare.agreement import agree_all
    from ming_eval.compare.system import load_systems
    from ming_eval.compare.tables import agreement_text

    if fail_on:
        raise UsageError("--fail-on is about speed and does not go with --agreement")
    agreements = agree_all(load_systems(folders), force=force)
    show(agreement_text(agreements), agreements, json_path)
