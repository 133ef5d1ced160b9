"""A coverage run from its plan to the files it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.commands.session import Job, run_job, write_reports
from ming_eval.coverage.cases import CaseSet, load_cases
from ming_eval.coverage.plan import CoveragePlan
from ming_eval.coverage.runner import Coverage
from ming_eval.coverage.stored import stored_results
from ming_eval.coverage.summary import summarise_coverage
from ming_eval.load.summary import KILLED
from ming_eval.manifest import Manifest
from ming_eval.report.coverage_markdown import coverage_markdown
from ming_eval.report.coverage_table import case_line
from ming_eval.report.progress import Progress
from ming_eval.results import CoverageCase, CoverageSummary, Verdict
from ming_eval.run_folder import RequestLog
from ming_eval.targets import Target


@dataclass(frozen=True, slots=True)
class FinishedCoverage:
    """A coverage run that has been written."""

    folder: Path
    summary: CoverageSummary


def run_coverage(job: Job, plan: CoveragePlan, cases: CaseSet, progress: Progress) -> FinishedCoverage | None:
    """Run the cases and write the run's folder; None when it was interrupted before there was anything to write.

    Raises:
        TargetError: a server is not there, or does not start.
        DataError: results cannot be written.
    """
    ended_cases: list[CoverageCase] = []

    async def measure(targets: Sequence[Target], log: RequestLog, zero_s: float) -> None:
        await Coverage(plan, cases, targets, log, _Watcher(progress), ended_cases, zero_s=zero_s).run()

    ended = run_job(job, measure, progress)
    if ended is None:
        return None
    return FinishedCoverage(ended.folder, _written(ended.folder, ended.manifest, cases, ended_cases, ended.cut_short))


def sum_up_coverage(folder: Path) -> CoverageSummary:
    """Make the summary and report of a stored run again from its requests and answers, and write them.

    Raises:
        DataError: the run cannot be read, or its cases are no longer the bundled ones.
    """
    manifest, cases = manifests.read(folder), load_cases()
    cut_short = results.read_coverage(folder).verdict if (folder / "summary.json").exists() else KILLED
    return _written(folder, manifest, cases, stored_results(folder, manifest, cases), cut_short)


def _written(
    folder: Path, manifest: Manifest, cases: CaseSet, ended: Sequence[CoverageCase], cut_short: Verdict | None
) -> CoverageSummary:
    summary = summarise_coverage(manifest, cases, ended, cut_short)
    write_reports(folder, summary, coverage_markdown(summary, manifest))
    return summary


class _Watcher:
    """Shows cases as they start and end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def case_started(self, backend: str, name: str) -> None:
        self._progress.status(f"{backend} {name}")

    def case_ended(self, case: CoverageCase) -> None:
        self._progress.say(case_line(case))
