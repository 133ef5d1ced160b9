"""One measurement from start to end: servers, folder, manifest, the measuring itself; kept whatever ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ming_eval import manifest as manifests
from ming_eval import results, run_folder
from ming_eval.commands.backends import Servers
from ming_eval.commands.failed_start import write_failed_start
from ming_eval.errors import MingEvalError, TargetError, UsageError
from ming_eval.launch import BUNDLED_NAME, BundledServer, running
from ming_eval.load.identify import identify
from ming_eval.load.interrupt import run, run_until_stopped
from ming_eval.load.summary import INTERRUPTED
from ming_eval.manifest import Manifest
from ming_eval.report.progress import Progress
from ming_eval.results import Backend, RunSummary, Verdict
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.targets import Target

# What a command does once its servers are there. It keeps its results itself, as they come.
# The last argument is the run's clock zero on this process's clock.
Measure = Callable[[Sequence[Target], RequestLog, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line asked for; `command` is the verb, `words` the whole line without secrets.

    `resume` is the folder of a run that is to be finished rather than a new one begun.
    """

    command: str
    words: tuple[str, ...]
    servers: Servers
    out: Path
    seed: int
    settings: Mapping[str, Any]
    resume: Path | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A measurement that is over; `cut_short` is why it did not get to its end, None when it did."""

    folder: Path
    manifest: Manifest
    cut_short: Verdict | None


def run_job(job: Job, measure: Measure, progress: Progress) -> Ended | None:
    """Run a measurement; None when it was interrupted before there was anything to write.

    Raises:
        UsageError: the bundled engine refuses its options or its model, or a server cannot be asked what is wanted.
        TargetError: a server is not there, or does not start.
        DataError: results cannot be written.
    """
    session = _Session(job, measure, progress)
    cut_short: Verdict | None = None
    try:
        if not run(session.run()):
            cut_short = INTERRUPTED
    except (TargetError, UsageError) as exc:
        if session.manifest is None:
            session.keep_failed_start(Verdict("failed", exc.exit_code, _one_line(exc)))
            raise
        if isinstance(exc, UsageError) and not session.has_asked():  # there is nothing that a report could show
            session.keep_unasked(Verdict("failed", exc.exit_code, _one_line(exc)))
            raise
        progress.say(f"ming-eval: {exc}")
        cut_short = Verdict("aborted", exc.exit_code, _one_line(exc))
    if cut_short is not None and session.manifest is None:
        session.keep_failed_start(cut_short)
    return session.end(cut_short)


def write_reports(folder: Path, summary: RunSummary, markdown: str) -> None:
    """Write `summary.json` and `summary.md`.

    Raises:
        DataError: they cannot be written.
    """
    results.write(summary, folder / "summary.json")
    results.write_whole(folder / "summary.md", markdown.encode())


class _Session:
    """The state that must outlive an interruption; `manifest` is there from when the measuring starts."""

    def __init__(self, job: Job, measure: Measure, progress: Progress) -> None:
        self.manifest: Manifest | None = None
        self._job = job
        self._measure = measure
        self._progress = progress
        self._folder: Path | None = None
        self._server: BundledServer | None = None

    async def run(self) -> bool:
        """True when the measurement has come to its end, False when a signal stopped it."""
        ticker = asyncio.create_task(self._progress.tick())
        try:
            return await run_until_stopped(self._work(), on_forced_exit=self._kill)
        finally:
            ticker.cancel()

    def end(self, cut_short: Verdict | None) -> Ended | None:
        """Complete the manifest."""
        if self._folder is None or self.manifest is None:
            return None
        manifest = replace(manifests.read(self._folder), finished=manifests.utc_now())
        manifests.write(manifest, self._folder)
        return Ended(self._folder, manifest, cut_short)

    def keep_failed_start(self, verdict: Verdict) -> None:
        """Complete the folder of a run whose engine never took work: it holds the engine's log."""
        if self._folder is not None and self._job.resume is None:
            never_asked = Backend(BUNDLED_NAME, "", BUNDLED_NAME, None, None, launched=True)
            write_failed_start(self._folder, self._describe(self._folder, [never_asked]), verdict)

    def has_asked(self) -> bool:
        """True when there is an answer in the run's folder, of this process or of one before."""
        assert self._folder is not None
        files = (path for kind in ("requests", "responses") for path in self._folder.glob(f"{kind}*.jsonl"))
        return any(path.stat().st_size for path in files)

    def keep_unasked(self, verdict: Verdict) -> None:
        """Complete the folder of a run whose servers cannot be asked what was wanted."""
        assert self._folder is not None
        assert self.manifest is not None
        write_failed_start(self._folder, self.manifest, verdict)

    async def _work(self) -> None:
        async with AsyncExitStack() as stack:
            targets = self._job.servers.targets
            if not targets:
                targets = (await self._start_engine(stack),)
            measuring = self._measure_all(targets)
            await (measuring if self._server is None else self._server.while_alive(measuring))

    async def _start_engine(self, stack: AsyncExitStack) -> Target:
        log_path = self._new_folder([BUNDLED_NAME]) / "engine.log"
        self._server = BundledServer(self._job.servers.engine_args, log_path)
        return await stack.enter_async_context(running(self._server, self._progress.status))

    async def _measure_all(self, targets: Sequence[Target]) -> None:
        identified = [
            await identify(
                target,
                launched=self._server is not None,
                guess_dialect=self._job.servers.guesses(target),
                warn=self._progress.say,
            )
            for target in targets
        ]
        folder = self._folder or self._new_folder([target.name for target in targets])
        backends = [backend for _, backend in identified]
        if self._job.resume is None:
            self.manifest = await asyncio.to_thread(self._describe, folder, backends)
        else:
            self.manifest = self._resumed(self._job.resume, backends)
        manifests.write(self.manifest, folder)
        zero_s = time.perf_counter() - manifests.age_s(self.manifest)
        with RequestLog(folder, Redactor(_secrets(targets))) as log:
            await self._measure([target for target, _ in identified], log, zero_s)

    def _resumed(self, folder: Path, backends: Sequence[Backend]) -> Manifest:
        """The manifest of the run that goes on; says what is not as it was."""
        manifest = replace(manifests.read(folder), command=self._job.words)
        if not any(backend.url for backend in manifest.backends):  # its engine never took work
            return replace(manifest, finished=None, backends=tuple(backends))
        for before, now in zip(manifest.backends, backends, strict=True):
            if (before.model, before.version, before.dialect) != (now.model, now.version, now.dialect):
                self._progress.say(f"{now.name} is not as it was: {_identity(before)} before, {_identity(now)} now")
        return replace(manifest, finished=None)

    def _new_folder(self, names: Sequence[str]) -> Path:
        if self._job.resume is not None:
            self._folder = self._job.resume
        else:
            self._folder = run_folder.create(self._job.out, self._job.command, names)
        return self._folder

    def _describe(self, folder: Path, backends: Sequence[Backend]) -> Manifest:
        return Manifest(
            run=folder.name,
            command=self._job.words,
            started=manifests.utc_now(),
            finished=None,
            seed=self._job.seed,
            settings=self._job.settings,
            backends=tuple(backends),
            engine_args=self._job.servers.engine_args,
            note=self._job.note,
            versions=manifests.versions(),
            git=manifests.git_state(),
            host=manifests.this_host(),
        )

    def _kill(self) -> None:
        if self._server is not None:
            self._server.kill()


def _one_line(error: MingEvalError) -> str:
    """What the first line says; where a log follows, with its last line."""
    first, *log = str(error).splitlines()
    return f"{first} {log[-1].strip()}" if log else first


def _identity(backend: Backend) -> str:
    return f"model {backend.model}, version {backend.version}, dialect {backend.dialect}"


def _secrets(targets: Sequence[Target]) -> tuple[str, ...]:
    """What must not be written: keys and header values, with and without the scheme in front (`Bearer ...`)."""
    values = {value for target in targets for _, value in target.all_headers()}
    words = {value.split()[-1] for value in values if value.lower().startswith(("bearer ", "basic "))}
    return tuple(sorted((secret for secret in values | words if len(secret) >= 4), key=len, reverse=True))
