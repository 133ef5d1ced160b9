"""One sweep from start to end: server, manifest, measurement, summary; what is written whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval import results, run_folder
from ming_eval.errors import TargetError
from ming_eval.launch import BUNDLED_NAME, BundledServer, running
from ming_eval.load.identify import identify
from ming_eval.load.interrupt import run, run_until_stopped
from ming_eval.load.plan import LoadPlan
from ming_eval.load.summary import INTERRUPTED, summarise_run
from ming_eval.load.sweep import Sweep
from ming_eval.manifest import Manifest
from ming_eval.report.markdown import sweep_markdown
from ming_eval.report.progress import Progress
from ming_eval.results import Backend, Summary, Verdict
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.targets import Target


@dataclass(frozen=True, slots=True)
class SweepJob:
    """What the command line asked for. Without targets the bundled engine is started with `engine_args`."""

    plan: LoadPlan
    targets: tuple[Target, ...]
    guess_dialect: bool
    engine_args: tuple[str, ...]
    out: Path
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that has been written."""

    folder: Path
    summary: Summary


def run_job(job: SweepJob, progress: Progress) -> Finished | None:
    """Run a sweep and write its folder; None when it was interrupted before there was anything to write.

    Raises:
        TargetError: a server is not there, or does not start.
        DataError: results cannot be written.
    """
    session = _Session(job, progress)
    cut_short: Verdict | None = None
    try:
        if not run(session.run()):
            cut_short = INTERRUPTED
    except TargetError as exc:
        if session.sweep is None:
            raise
        progress.say(f"ming-eval: {exc}")
        cut_short = Verdict("aborted", exc.exit_code, str(exc).splitlines()[0])
    return session.finish(cut_short)


def write_reports(folder: Path, summary: Summary, manifest: Manifest) -> None:
    """Write `summary.json` and `summary.md`.

    Raises:
        DataError: they cannot be written.
    """
    results.write(summary, folder / "summary.json")
    results.write_whole(folder / "summary.md", sweep_markdown(summary, manifest).encode())


class _Session:
    """The state that must outlive an interruption."""

    def __init__(self, job: SweepJob, progress: Progress) -> None:
        self.sweep: Sweep | None = None
        self._job = job
        self._progress = progress
        self._folder: Path | None = None
        self._server: BundledServer | None = None
        self._manifest: Manifest | None = None

    async def run(self) -> bool:
        """True when the sweep has come to its end, False when a signal stopped it."""
        ticker = asyncio.create_task(self._progress.tick())
        try:
            return await run_until_stopped(self._work(), on_forced_exit=self._kill)
        finally:
            ticker.cancel()

    def finish(self, cut_short: Verdict | None) -> Finished | None:
        """Write what there is."""
        if self._folder is None or self._manifest is None or self.sweep is None:
            return None
        finished = manifests.utc_now()
        manifest = replace(self._manifest, finished=finished)
        manifests.write(manifest, self._folder)
        summary = summarise_run(manifest, self.sweep.records, finished=finished, cut_short=cut_short)
        write_reports(self._folder, summary, manifest)
        return Finished(self._folder, summary)

    async def _work(self) -> None:
        async with AsyncExitStack() as stack:
            targets = self._job.targets
            if not targets:
                targets = (await self._start_engine(stack),)
            try:
                await self._measure(targets)
            except TargetError as exc:
                raise (self._server.explain(exc) if self._server else exc) from exc

    async def _start_engine(self, stack: AsyncExitStack) -> Target:
        self._server = BundledServer(self._job.engine_args, self._new_folder([BUNDLED_NAME]) / "engine.log")
        return await stack.enter_async_context(running(self._server, self._progress.status))

    async def _measure(self, targets: Sequence[Target]) -> None:
        identified = [
            await identify(
                target,
                launched=self._server is not None,
                guess_dialect=self._job.guess_dialect,
                warn=self._progress.say,
            )
            for target in targets
        ]
        folder = self._folder or self._new_folder([target.name for target in targets])
        self._manifest = await asyncio.to_thread(self._describe, folder, [backend for _, backend in identified])
        manifests.write(self._manifest, folder)
        with RequestLog(folder, Redactor(_secrets(targets))) as log:
            self.sweep = Sweep(self._job.plan, [target for target, _ in identified], log, self._progress)
            await self.sweep.run()

    def _new_folder(self, names: Sequence[str]) -> Path:
        self._folder = run_folder.create(self._job.out, "sweep", names)
        return self._folder

    def _describe(self, folder: Path, backends: Sequence[Backend]) -> Manifest:
        return Manifest(
            run=folder.name,
            command=self._job.command,
            started=manifests.utc_now(),
            finished=None,
            seed=self._job.plan.seed,
            settings=asdict(self._job.plan),
            backends=tuple(backends),
            versions=manifests.versions(),
            git=manifests.git_state(),
            host=manifests.this_host(),
        )

    def _kill(self) -> None:
        if self._server is not None:
            self._server.kill()


def _secrets(targets: Sequence[Target]) -> tuple[str, ...]:
    """What must not be written: keys and header values, with and without the scheme in front (`Bearer ...`)."""
    values = {value for target in targets for _, value in target.all_headers()}
    words = {value.split()[-1] for value in values if value.lower().startswith(("bearer ", "basic "))}
    return tuple(sorted((secret for secret in values | words if len(secret) >= 4), key=len, reverse=True))
