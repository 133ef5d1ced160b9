"""`ming-eval runs`: what is in `results/`; the summaries of stored runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show
from ming_eval.errors import DataError

if TYPE_CHECKING:
    from ming_eval.report.runs_table import RunRow
    from ming_eval.results import CoverageSummary, Summary

RUNS_EXAMPLES = """
\b
Examples:
  ming-eval runs
  ming-eval runs --command sweep --backend vllm --since 7d
  ming-eval runs --status interrupted --out /data/results --json -
"""


def runs(
    command: Annotated[str | None, typer.Option(help="Only runs of this command, such as sweep.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs that measured this backend.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only runs that ended so: complete, errors, interrupted, killed, ...")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs started since: 2026-06-15, or an age as 12h or 7d.")
    ] = None,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """List the stored runs, oldest first."""
    with exit_on_error():
        from ming_eval.report.runs_table import RunFilter, parse_since, runs_grid
        from ming_eval.run_folder import stored_runs

        since_time = None if since is None else parse_since(since, datetime.now(UTC))
        wanted = RunFilter(command, backend, status, since_time)
        rows = [row for folder in stored_runs(out) if wanted.passes(row := _row(folder))]
        nothing = f"no runs in {out}" if wanted == RunFilter() else f"no such runs in {out}"
        text = runs_grid(rows).text() if rows else f"{nothing}\n"
        show(text, rows, json_path)


def coverage_summary(folder: Path) -> CoverageSummary:
    """The summary of a coverage run, made again where the run was cut short.

    Raises:
        DataError: the run cannot be read.
    """
    from ming_eval import results
    from ming_eval.commands.coverage_run import sum_up_coverage

    if (folder / "summary.json").exists():
        summary = results.read_coverage(folder)
        if not summary.partial:
            return summary
    return sum_up_coverage(folder)


def sweep_summary(folder: Path) -> Summary:
    """The summary of a sweep, made again where the run was cut short; otherwise as `coverage_summary`."""
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
    from ming_eval.commands.side_by_side import side_by_side
    from ming_eval.load.summary import KILLED, summarise_run
    from ming_eval.report.markdown import sweep_markdown
    from ming_eval.run_folder import read_phases, read_records

    manifest = manifests.read(folder)
    is_summed_up = (folder / "summary.json").exists()
    cut_short = results.read(folder).verdict if is_summed_up else KILLED
    records = read_records(folder)
    phases = read_phases(folder)
    summary = summarise_run(manifest, records, phases, finished=manifest.finished, cut_short=cut_short)
    compared = side_by_side(manifest, records, summary)
    compared.write(folder)
    section = compared.markdown()
    write_reports(folder, summary, sweep_markdown(summary, manifest, *([section] if section else [])))
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
    from ming_eval.report.runs_table import RunRow, command_of

    if (folder / "summary.json").exists():
        return RunRow.of(results.read(folder))
    manifest = manifests.read(folder)
    names = tuple(backend.name for backend in manifest.backends)
    return RunRow(
        run=manifest.run,
        status="unfinished",
        command=command_of(manifest.command),
        started=manifest.started,
        backends=names,
    )
