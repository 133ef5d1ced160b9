"""`ming-eval report`: stored runs as a table, one HTML page, plots and comma-separated values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show
from ming_eval.commands.rescore import accuracy_summary
from ming_eval.commands.stored import coverage_summary, sweep_summary
from ming_eval.errors import DataError, MingEvalError, UsageError

if TYPE_CHECKING:
    from ming_eval.manifest import Manifest
    from ming_eval.report.html import Section
    from ming_eval.report.overlay import SweepRun
    from ming_eval.results import RunSummary, Summary

EXAMPLES = """
\b
Examples:
  ming-eval report results/20260615T101500Z-sweep-ming
      its table; report.html and plots/ go into its folder
  ming-eval report 20260615T101500Z-sweep-a 20260615T103000Z-sweep-b
      both in one page, compared; the page goes into a folder of its own
  ming-eval report 20260615T101500Z-sweep-ming --csv points.csv --json summary.json
"""

PAGE_FILE = "report.html"
PLOTS_FOLDER = "plots"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as it was found; the summary's type says of which command it is."""

    folder: Path
    manifest: Manifest
    summary: RunSummary


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs by folder or name.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="DIR", help="Folder for page and plots. [default: the run's own; of several, a new one]"
        ),
    ] = None,
    csv_path: Annotated[
        str | None, typer.Option("--csv", metavar="PATH", help="Also write the points as CSV; - is standard output.")
    ] = None,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Show stored runs: tables here, one HTML page and PNG plots in a folder.

    The summary of a run that was cut short is made again from its requests and written to its folder.
    """
    with exit_on_error():
        from ming_eval.run_folder import find_run

        if csv_path == "-" == json_path:
            raise UsageError("--csv - and --json - cannot both go to standard output: give one of them a path")
        stored = [_read(folder) for folder in dict.fromkeys(find_run(run, out).resolve() for run in runs)]
        _refuse_copies(stored)
        page = _write_page(stored, to or _folder(stored, out))
        summaries = [run.summary for run in stored]
        text = "\n".join(map(_text, summaries)) + f"\n{page}\n"
        _write_csv(summaries, csv_path)
        typer.echo(text, nl=False, err="-" in (json_path, csv_path))
        show("", summaries[0] if len(summaries) == 1 else summaries, json_path)


def _read(folder: Path) -> StoredRun:
    from ming_eval import manifest as manifests

    manifest = manifests.read(folder)
    summary: RunSummary
    match manifest.command[1:2]:
        case ("coverage",):
            summary = coverage_summary(folder)
        case ("accuracy",):
            summary = accuracy_summary(folder)
        case _:
            summary = sweep_summary(folder)
    return StoredRun(folder, manifest, summary)


def _refuse_copies(stored: Sequence[StoredRun]) -> None:
    """A copy of a run has the same name in every table, and its points would be taken for the other's.

    Raises:
        UsageError: two folders hold one run.
    """
    folders: dict[str, Path] = {}
    for run in stored:
        if (other := folders.setdefault(run.manifest.run, run.folder)) != run.folder:
            raise UsageError(f"{other} and {run.folder} are copies of one run, {run.manifest.run}: name one of them")


def _folder(stored: Sequence[StoredRun], out: Path) -> Path:
    from ming_eval import run_folder

    if len(stored) == 1:
        return stored[0].folder
    names = dict.fromkeys(backend.name for run in stored for backend in run.summary.backends)
    return run_folder.create(out, "report", names)


def _text(summary: RunSummary) -> str:
    from ming_eval.accuracy_results import AccuracySummary
    from ming_eval.report.accuracy_table import accuracy_text
    from ming_eval.report.coverage_table import coverage_text
    from ming_eval.report.terminal import sweep_text
    from ming_eval.results import CoverageSummary, Summary

    match summary:
        case AccuracySummary():
            return accuracy_text(summary)
        case CoverageSummary():
            return coverage_text(summary)
        case Summary():
            return sweep_text(summary)
    raise AssertionError(type(summary))


def _write_csv(summaries: Sequence[RunSummary], csv_path: str | None) -> None:
    from ming_eval import results
    from ming_eval.report.csv_export import to_csv

    if csv_path == "-":
        sys.stdout.write(to_csv(summaries))
    elif csv_path is not None:
        results.write_whole(Path(csv_path), to_csv(summaries).encode())


def _write_page(stored: Sequence[StoredRun], folder: Path) -> Path:
    """Write the page and, where that is possible, the plots; the path of the page."""
    from ming_eval import results
    from ming_eval.accuracy_results import AccuracySummary
    from ming_eval.report.accuracy_page import accuracy_sections
    from ming_eval.report.coverage_page import coverage_sections
    from ming_eval.report.html import document
    from ming_eval.report.sweep_page import sweep_sections
    from ming_eval.results import CoverageSummary, Summary

    sweeps = [_with_records(run, run.summary) for run in stored if isinstance(run.summary, Summary)]
    sections = sweep_sections(sweeps) if sweeps else []
    sections[2:2] = _comparison(sweeps)
    sections += _accuracy_comparison(stored)
    for run in stored:
        if isinstance(run.summary, CoverageSummary):
            sections += coverage_sections(run.folder, run.manifest, run.summary)
        elif isinstance(run.summary, AccuracySummary):
            sections += accuracy_sections(run.manifest, run.summary)
    _make_folder(folder)
    results.write_whole(folder / PAGE_FILE, document(_title(stored), _subtitle(stored), sections).encode())
    _write_plots(sweeps, folder / PLOTS_FOLDER)
    return folder / PAGE_FILE


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise DataError(f"cannot create {folder}: {exc.strerror}; choose another with --to") from exc


def _with_records(run: StoredRun, summary: Summary) -> SweepRun:
    from ming_eval.report.overlay import SweepRun
    from ming_eval.run_folder import read_records

    return SweepRun(run.manifest, summary, read_records(run.folder), run.folder)


def _comparison(sweeps: Sequence[SweepRun]) -> list[Section]:
    """A section where there are several systems; of those that do not compare with the first one, why."""
    from ming_eval.compare.comparison import compare
    from ming_eval.compare.page import comparison_section
    from ming_eval.compare.system import load_all
    from ming_eval.report.html import Section, warning

    if sum(len(run.summary.backends) for run in sweeps) < 2:
        return []
    found, refusals = [], ""
    try:
        first, *others = load_all([(run.manifest, run.records, run.summary) for run in sweeps])
    except MingEvalError as exc:
        return [Section("comparison", "Comparison", warning(f"None: {exc}"))]
    for other in others:
        try:
            found.append(compare(first, other))
        except MingEvalError as exc:
            refusals += warning(f"None of {other.label}: {exc}")
    body = comparison_section(found).body if found else ""
    return [Section("comparison", "Comparison", refusals + body)]


def _accuracy_comparison(stored: Sequence[StoredRun]) -> list[Section]:
    """As `_comparison`, of accuracy runs."""
    from ming_eval.accuracy_results import AccuracySummary
    from ming_eval.compare.accuracy_page import accuracy_comparison_section
    from ming_eval.compare.accuracy_runs import compare_runs, read_runs
    from ming_eval.report.html import Section, warning

    runs = [(run.folder, run.summary) for run in stored if isinstance(run.summary, AccuracySummary)]
    if sum(len({suite.backend for suite in summary.suites}) for _, summary in runs) < 2:
        return []
    try:
        found = compare_runs(read_runs([folder for folder, _ in runs], [summary for _, summary in runs]))
    except MingEvalError as exc:
        return [Section("accuracy-comparison", "Comparison of accuracy", warning(f"None: {exc}"))]
    return [accuracy_comparison_section(found)]


def _write_plots(sweeps: Sequence[SweepRun], folder: Path) -> None:
    from ming_eval.report.plots import NO_PLOTS, can_plot, write_plots

    if not sweeps:
        return
    if can_plot():
        write_plots(sweeps, folder)
    else:
        typer.echo(f"ming-eval: {NO_PLOTS}", err=True)


def _title(stored: Sequence[StoredRun]) -> str:
    from ming_eval.report.document import named

    backends = dict.fromkeys(named(backend) for run in stored for backend in run.summary.backends)
    commands = dict.fromkeys(run.manifest.command[1] for run in stored)
    return f"{' and '.join(commands).capitalize()} of {', '.join(backends)}"


def _subtitle(stored: Sequence[StoredRun]) -> str:
    return "; ".join(f"{run.summary.run}, started {run.summary.started}" for run in stored)
