"""An accuracy run from its plans to the files it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval.accuracy_results import AccuracySummary, ItemResult, SuiteResult
from ming_eval.commands.accuracy_crew import AnswerCrew
from ming_eval.commands.accuracy_settings import AccuracySettings
from ming_eval.commands.accuracy_turns import Asker, Turn, Watcher, turns_of
from ming_eval.commands.accuracy_worker import AnswerSpec
from ming_eval.commands.earlier_conduct import EarlierConduct
from ming_eval.commands.session import Ended, Job, run_job, write_reports
from ming_eval.evals.item_lines import write_items
from ming_eval.evals.plan import Plan
from ming_eval.evals.responses import Response, ResponseLog, join_responses
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.runner import SampleKey
from ming_eval.evals.scored import score_all
from ming_eval.evals.similarity import SpeakerEncoder, asks_with_voice, load_encoder, with_similarity
from ming_eval.evals.summarise import Conduct, item_results, summarise
from ming_eval.manifest import Manifest
from ming_eval.report.accuracy_markdown import accuracy_markdown
from ming_eval.report.progress import Progress
from ming_eval.results import Verdict
from ming_eval.run_folder import RequestLog
from ming_eval.targets import Target


@dataclass(frozen=True, slots=True)
class FinishedAccuracy:
    """An accuracy run that has been written."""

    folder: Path
    summary: AccuracySummary


@dataclass(frozen=True, slots=True)
class Answers:
    """What came for one plan, and how."""

    plan: Plan
    responses: Mapping[SampleKey, Response]
    conduct: Conduct


def run_accuracy(
    job: Job, plans: Sequence[Plan], settings: AccuracySettings, progress: Progress, retries: RetryPolicy
) -> FinishedAccuracy | None:
    """Ask every suite and write the run's folder; None when it was interrupted before there was anything to write.

    Raises:
        UsageError: a package that is needed is missing.
        TargetError: a server is not there, or does not start.
        DataError: results cannot be written, or the recogniser or the speaker encoder cannot be read.
    """
    accuracy = _Accuracy(plans, settings, progress, retries, is_launched=not job.servers.targets)
    try:
        ended = run_job(job, accuracy.measure, progress)
        return None if ended is None else accuracy.write(ended)
    finally:
        accuracy.close()


def write_summary(
    folder: Path,
    manifest: Manifest,
    answers: Sequence[Answers],
    verdict: Verdict | None,
    max_error_rate: float,
    encoder: SpeakerEncoder | None = None,
) -> AccuracySummary:
    """Score answers, write `items.jsonl`, `summary.json` and `summary.md`; `verdict` is None for a run that ended.

    Raises:
        DataError: they cannot be written, or `encoder` has no embedding of a file.
    """
    suites: list[SuiteResult] = []
    lines: list[ItemResult] = []
    for each in answers:
        scored = score_all(each.plan, each.responses)
        if encoder is not None and asks_with_voice(each.plan):
            scored = with_similarity(each.plan, scored, folder, encoder)
        suites.append(summarise(each.plan, scored, each.conduct))
        lines += item_results(each.plan, scored, each.conduct.backend)
    write_items(folder, lines)
    summary = _summary(manifest, suites, verdict, max_error_rate)
    write_reports(folder, summary, accuracy_markdown(summary, manifest) + _side_by_side(summary, lines))
    return summary


def _side_by_side(summary: AccuracySummary, lines: Sequence[ItemResult]) -> str:
    """A section that compares the backends of the run; empty where there is one, or several that share the suites."""
    if len({suite.backend for suite in summary.suites}) < 2:
        return ""
    from ming_eval.compare.accuracy_runs import AnsweredRun, compare_runs
    from ming_eval.compare.accuracy_tables import comparison_markdown

    return f"\n## Comparison\n\n{comparison_markdown(compare_runs([AnsweredRun(summary, lines)]))}\n"


class _Accuracy:
    """The suites of a run at its backends, one after the other."""

    def __init__(
        self,
        plans: Sequence[Plan],
        settings: AccuracySettings,
        progress: Progress,
        retries: RetryPolicy,
        *,
        is_launched: bool,
    ) -> None:
        self._plans = plans
        self._settings = settings
        self._progress = progress
        self._retries = retries
        self._is_launched = is_launched
        self._asker = Asker(settings, () if settings.is_shared else plans, retries, is_launched=is_launched)
        self._encoder = None if settings.speaker_encoder is None else load_encoder(settings.speaker_encoder)
        self._turns: list[Turn] = []

    async def measure(self, targets: Sequence[Target], log: RequestLog, _zero_s: float) -> None:
        """Ask every suite of every backend, or of all backends together."""
        self._turns = turns_of(self._plans, targets, is_shared=self._settings.shard)
        join_responses(log.folder)
        if self._settings.is_shared:
            await self._share(targets, log)
            return
        with ResponseLog(log.folder, log.redact) as responses:
            for turn in self._turns:
                await self._take(turn, responses)

    async def _share(self, targets: Sequence[Target], log: RequestLog) -> None:
        spec = AnswerSpec(
            settings=self._settings,
            targets=tuple(targets),
            folder=str(log.folder.absolute()),
            cwd=str(Path.cwd()),
            is_launched=self._is_launched,
            retries=self._retries,
            secrets=log.redact.secrets,
        )
        await AnswerCrew(spec, self._turns, self._settings.links(), self._progress).run()

    async def _take(self, turn: Turn, responses: ResponseLog) -> None:
        watcher = Watcher(self._progress, turn)
        async with self._asker.suite_run(turn, responses, watcher) as run:
            turn.asked = run
            await run.run()
        watcher.end()

    def close(self) -> None:
        """Let go of what was loaded."""
        self._asker.close()

    def write(self, ended: Ended) -> FinishedAccuracy:
        """Write what there is."""
        targets = [target for turn in self._turns for target in turn.targets]
        manifest = _with_targets(ended.manifest, targets)
        manifests.write(manifest, ended.folder)
        before = EarlierConduct.read(ended.folder)
        answers = [self._answers(turn, before) for turn in self._turns]
        verdict = ended.cut_short or self._gave_up()
        summary = write_summary(ended.folder, manifest, answers, verdict, self._settings.max_error_rate, self._encoder)
        return FinishedAccuracy(ended.folder, summary)

    def _answers(self, turn: Turn, before: EarlierConduct) -> Answers:
        asked = turn.asked
        responses = {} if asked is None else asked.responses
        conduct = Conduct(
            backend=turn.backend,
            model=turn.targets[0].model,
            wall_s=None if asked is None else asked.wall_s,
            reused=0 if asked is None else len(asked.reused),
            max_error_rate=self._settings.max_error_rate,
        )
        return Answers(turn.plan, responses, before.kept(turn.plan.name, responses, conduct))

    def _gave_up(self) -> Verdict | None:
        names = [turn.plan.name for turn in self._turns if turn.asked is not None and turn.asked.gave_up]
        if not names:
            return None
        return Verdict("errors", 1, f"{', '.join(names)}: stopped, more than half of the last 50 replies were errors")


def _with_targets(manifest: Manifest, targets: Sequence[Target]) -> Manifest:
    """The manifest with the servers that were asked last: a run that goes on may have others than it began with."""
    asked = {target.name: target for target in targets}
    backends = tuple(
        replace(backend, url=asked[backend.name].base_url, model=asked[backend.name].model)
        if backend.name in asked
        else backend
        for backend in manifest.backends
    )
    return replace(manifest, backends=backends)


def _summary(
    manifest: Manifest, suites: Sequence[SuiteResult], verdict: Verdict | None, max_error_rate: float
) -> AccuracySummary:
    planned, errors = sum(suite.planned for suite in suites), sum(suite.error for suite in suites)
    return AccuracySummary(
        run=manifest.run,
        command=manifest.command,
        started=manifest.started,
        finished=manifest.finished,
        seed=manifest.seed,
        partial=verdict is not None,
        verdict=verdict or _judge(suites, max_error_rate),
        max_error_rate=max_error_rate,
        settings=manifest.settings,
        backends=manifest.backends,
        requests=planned,
        failed=errors,
        error_rate=errors / planned if planned else None,
        suites=tuple(suites),
    )


def _judge(suites: Sequence[SuiteResult], max_error_rate: float) -> Verdict:
    bad = [suite for suite in suites if not suite.complete]
    if not bad:
        return Verdict("complete", 0)
    shares = ", ".join(
        f"{suite.suite} {suite.error} errors and {suite.skipped} skipped of {suite.planned}" for suite in bad
    )
    return Verdict("errors", 1, f"more errors or skipped items than {max_error_rate:.3g} of the replies: {shares}")
