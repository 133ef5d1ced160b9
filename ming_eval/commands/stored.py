"""`ming-eval runs` and `ming-eval report`: what is in `results/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show
from ming_eval.errors import DataError

if TYPE_CHECKING:
    from ming_eval.report.runs_table import RunRow
    from ming_eval.results import Summary

RUNS_EXAMPLES = """
\b
Examples:
  ming-eval runs
  ming-eval runs --out /data/results --json -
"""

REPORT_EXAMPLES = """
\b
Examples:
  ming-eval report results/20260615T101500Z-sweep-ming
  ming-eval report 20260615T101500Z-sweep-ming --json summary.json
"""


def runs(out: OutOption = DEFAULT_OUT, json_path: JsonOption = None) -> None:
    """List the stored runs, oldest first."""
    with exit_on_error():
        from ming_eval.report.runs_table import runs_grid
        from ming_eval.run_folder import stored_runs

        rows = [_row(folder) for folder in stored_runs(out)]
        text = runs_grid(rows).text() if rows else f"no runs in {out}\n"
        show(text, rows, json_path)


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name.")],
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Print the table of a stored run.

    The summary of a run that was cut short is made again from its requests and written to its folder.
    """
    with exit_on_error():
        from ming_eval.report.terminal import sweep_text
        from ming_eval.run_folder import find_run

        summary = _summary(find_run(run, out))
        show(sweep_text(summary), summary, json_path)


def _summary(folder: Path) -> Summary:
    from ming_eval import results

    if (folder / "summary.json").exists():
        summary = results.read(folder)
        if not summary.partial:
            return summary
    return _sum_up_again(folder)


def _sum_up_again(folder: Path) -> Summary:
    """Summary and reports of a run that was interrupted or killed, written to its folder."""
    from ming_eval import manifest as manifests
    from ming_eval import results
    from ming_eval.commands.session import write_reports
    from ming_eval.load.summary import KILLED, summarise_run
    from ming_eval.run_folder import read_records

    manifest = manifests.read(folder)
    is_summed_up = (folder / "summary.json").exists()
    cut_short = results.read(folder).verdict if is_summed_up else KILLED
    summary = summarise_run(manifest, read_records(folder), finished=manifest.finished, cut_short=cut_short)
    write_reports(folder, summary, manifest)
    return summary


def _row(folder: Path) -> RunRow:
    from ming_eval.report.runs_table import RunRow

    try:
        return _read_row(folder)
    except DataError:  # one broken run must not hide the others
        return RunRow(run=folder.name, status="unreadable")


def _read_row(folder: Path) -> RunRow:
    from ming_eval import manifest as manifests
    from ming_eval import results
    from ming_eval.report.runs_table import RunRow

    if (folder / "summary.json").exists():
        return RunRow.of(results.read(folder))
    manifest = manifests.read(folder)
    names = tuple(backend.name for backend in manifest.backends)
    return RunRow(run=manifest.run, status="unfinished", started=manifest.started, backends=names)
