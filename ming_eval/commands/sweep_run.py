"""A sweep from its plan to the files it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ming_eval.commands.capacity import Extras, Findings, find_out, measure_search
from ming_eval.commands.session import Job, run_job, write_reports
from ming_eval.commands.side_by_side import SideBySide, side_by_side
from ming_eval.load.crew import Crew
from ming_eval.load.host import make_room, warn_if_busy
from ming_eval.load.kept import Kept
from ming_eval.load.links import check_links, find_links
from ming_eval.load.plan import LoadPlan
from ming_eval.load.summary import INTERRUPTED, summarise_run
from ming_eval.load.sweep import Sweep
from ming_eval.load.workload import prepare_sources
from ming_eval.report.markdown import sweep_markdown
from ming_eval.report.progress import Progress
from ming_eval.results import Summary, Verdict
from ming_eval.run_folder import RequestLog, drop_cut_lines, has_records, merge_workers
from ming_eval.targets import Target

NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class FinishedSweep:
    """A sweep that has been written."""

    folder: Path
    summary: Summary
    compared: SideBySide
    findings: Findings


def run_sweep(job: Job, plan: LoadPlan, progress: Progress, extras: Extras = NO_EXTRAS) -> FinishedSweep | None:
    """Run a sweep and write its folder; None when it was interrupted before there was anything to write.

    Raises:
        UsageError: this host cannot make the load.
        TargetError: a server is not there, or does not start.
        DataError: results cannot be written.
    """
    make_room(plan)
    check_links(plan.cluster)
    for line in prepare_sources(plan):
        progress.say(line)
    kept = Kept() if job.resume is None else _left_by_another(job.resume)
    limit: Verdict | None = None

    async def measure(targets: Sequence[Target], log: RequestLog, zero_s: float) -> None:
        nonlocal limit
        warn_if_busy(progress.say)

        async def sweep(plan: LoadPlan) -> None:
            if plan.is_shared:
                await Crew(plan, targets, log, progress, kept, zero_s, find_links(plan.workers, plan.cluster)).run()
            else:
                await Sweep(plan, targets, log, progress, kept, zero_s).run()

        try:
            async with asyncio.timeout(plan.max_time_s):
                if extras.search is None:
                    await sweep(plan)
                else:
                    await measure_search(extras.search, plan, targets[0].name, kept, log.folder, sweep)
        except TimeoutError:
            limit = Verdict("interrupted", INTERRUPTED.exit_code, f"not finished within {plan.max_time_s:g} s")

    ended = run_job(job, measure, progress)
    if ended is None:
        return None
    cut_short = ended.cut_short or limit
    manifest = ended.manifest
    summary = summarise_run(manifest, kept.records, kept.phases, finished=manifest.finished, cut_short=cut_short)
    compared = side_by_side(manifest, kept.records, summary)
    compared.write(ended.folder)
    findings = find_out(extras, summary, ended.folder)
    sections = [section for section in (findings.markdown, compared.markdown()) if section is not None]
    write_reports(ended.folder, summary, sweep_markdown(summary, manifest, *sections))
    return FinishedSweep(ended.folder, summary, compared, findings)


def _left_by_another(folder: Path) -> Kept:
    """What a process that did not get to its end has written."""
    if has_records(folder):
        drop_cut_lines(folder)
        merge_workers(folder)
    return Kept.stored(folder)
