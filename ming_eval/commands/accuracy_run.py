"""An accuracy run from its plans to the files it leaves."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval.accuracy_results import AccuracySummary, ItemResult, SuiteResult
from ming_eval.client import Client, Timeouts, probe
from ming_eval.commands.accuracy_settings import AccuracySettings
from ming_eval.commands.session import Ended, Job, run_job, write_reports
from ming_eval.errors import UsageError
from ming_eval.evals.answerer import Answerer, ChatAnswerer
from ming_eval.evals.asking import Server
from ming_eval.evals.http import Session
from ming_eval.evals.item import Kind, Outcome
from ming_eval.evals.item_lines import write_items
from ming_eval.evals.local_recogniser import LocalRecogniser
from ming_eval.evals.loglikelihood import LikelihoodAnswerer
from ming_eval.evals.plan import Method, Plan
from ming_eval.evals.recogniser import Listener, Recogniser, parse_judge
from ming_eval.evals.responses import Response, ResponseLog
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.runner import SampleKey, SuiteRun
from ming_eval.evals.scored import score_all
from ming_eval.evals.similarity import SpeakerEncoder, asks_with_voice, load_encoder, with_similarity
from ming_eval.evals.speaking import SpeechAnswerer
from ming_eval.evals.summarise import Conduct, item_results, summarise
from ming_eval.manifest import Manifest
from ming_eval.report.accuracy_markdown import accuracy_markdown
from ming_eval.report.progress import Progress
from ming_eval.results import Verdict
from ming_eval.run_folder import RequestLog
from ming_eval.targets import Target

_REDRAW_S = 0.5


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


@dataclass(slots=True)
class _Turn:
    """One suite at one backend, or at several that share it; `run` is None until it is its turn."""

    plan: Plan
    targets: tuple[Target, ...]
    run: SuiteRun | None = None

    @property
    def backend(self) -> str:
        return backend_name([target.name for target in self.targets])


def backend_name(names: Sequence[str]) -> str:
    """How a backend is called in results, or several that share a suite."""
    return "+".join(names)


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
        self._ear = _local_recogniser(settings, plans)
        self._encoder = None if settings.speaker_encoder is None else load_encoder(settings.speaker_encoder)
        self._turns: list[_Turn] = []

    async def measure(self, targets: Sequence[Target], log: RequestLog, _zero_s: float) -> None:
        """Ask every suite of every backend, or of all backends together."""
        if self._settings.shard:
            _refuse_other_models(targets)
        groups = [tuple(targets)] if self._settings.shard else [(target,) for target in targets]
        self._turns = [_Turn(plan, group) for group in groups for plan in self._plans]
        with ResponseLog(log.folder, log.redact) as responses:
            for turn in self._turns:
                await self._take(turn, responses)

    async def _take(self, turn: _Turn, log: ResponseLog) -> None:
        async with AsyncExitStack() as stack:
            answerers = [await stack.enter_async_context(self._answerer(turn.plan, each)) for each in turn.targets]
            watcher = _Watcher(self._progress, turn)
            turn.run = SuiteRun(
                turn.plan, answerers, log, watcher, concurrency=self._settings.concurrency, retries=self._retries
            )
            await turn.run.run()
        watcher.end()

    @asynccontextmanager
    async def _answerer(self, plan: Plan, target: Target) -> AsyncIterator[Answerer]:
        server = await server_identity(target, is_launched=self._is_launched)
        async with AsyncExitStack() as stack:
            if plan.suite.kind is Kind.SPEECH:
                judge = await self._listener(stack)
                yield SpeechAnswerer(await stack.enter_async_context(self._session(target)), server, judge)
            elif plan.options.method is Method.LOGLIKELIHOOD:
                yield LikelihoodAnswerer(await stack.enter_async_context(self._session(target)), server)
            else:
                yield ChatAnswerer(await stack.enter_async_context(self._client(target)), server)

    async def _listener(self, stack: AsyncExitStack) -> Listener:
        target = parse_judge(self._settings.judge or "").target
        if target is not None:
            return Recogniser(await stack.enter_async_context(self._session(target)))
        assert self._ear is not None, "a judge without a server is on this machine"
        return self._ear

    def close(self) -> None:
        """Let go of what was loaded."""
        if self._ear is not None:
            self._ear.close()

    def _session(self, target: Target) -> Session:
        return Session(target, timeout_s=self._settings.timeout_s, connections=self._settings.concurrency)

    def _client(self, target: Target) -> Client:
        timeout_s = self._settings.timeout_s
        limits = Timeouts(first_s=timeout_s, idle_s=timeout_s, total_s=timeout_s)
        return Client(target, connections=self._settings.concurrency, timeouts=limits)

    def write(self, ended: Ended) -> FinishedAccuracy:
        """Write what there is."""
        targets = [target for turn in self._turns for target in turn.targets]
        manifest = _with_targets(ended.manifest, targets)
        manifests.write(manifest, ended.folder)
        answers = [self._answers(turn, was_cut_short=ended.cut_short is not None) for turn in self._turns]
        verdict = ended.cut_short or self._gave_up()
        summary = write_summary(ended.folder, manifest, answers, verdict, self._settings.max_error_rate, self._encoder)
        return FinishedAccuracy(ended.folder, summary)

    def _answers(self, turn: _Turn, *, was_cut_short: bool) -> Answers:
        run = turn.run
        conduct = Conduct(
            backend=turn.backend,
            model=turn.targets[0].model,
            wall_s=None if run is None else run.wall_s,
            reused=0 if run is None else len(run.reused),
            was_cut_short=was_cut_short or run is None or run.gave_up,
            max_error_rate=self._settings.max_error_rate,
        )
        return Answers(turn.plan, {} if run is None else run.responses, conduct)

    def _gave_up(self) -> Verdict | None:
        names = [turn.plan.name for turn in self._turns if turn.run is not None and turn.run.gave_up]
        if not names:
            return None
        return Verdict("errors", 1, f"{', '.join(names)}: stopped, more than half of the last 50 replies were errors")


def _refuse_other_models(targets: Sequence[Target]) -> None:
    """Answers of two models are not one figure."""
    models = {target.name: target.model for target in targets}
    if len(set(models.values())) > 1:
        named = ", ".join(f"{name} serves {model}" for name, model in models.items())
        raise UsageError(f"--shard spreads a suite over servers of one model, but {named}: name one with --model")


def _local_recogniser(settings: AccuracySettings, plans: Sequence[Plan]) -> LocalRecogniser | None:
    """The judge where it is on this machine, loaded before anything is asked; None where it is not, or not needed."""
    if settings.judge is None or not any(plan.suite.kind is Kind.SPEECH for plan in plans):
        return None
    judge = parse_judge(settings.judge)
    return LocalRecogniser(judge.family, judge.folder) if judge.target is None else None


async def server_identity(target: Target, *, is_launched: bool) -> Server:
    """Who answers: an engine that was started for the run is known by its checkpoint, its port is another each time."""
    if not is_launched:
        return Server(target.model, target.base_url)
    cards = await probe.fetch_models(target)
    digests = [card.get("checkpoint_digest") for card in cards if card["id"] == target.model]
    return Server(target.model, f"checkpoint:{digests[0]}" if digests and digests[0] else target.base_url)


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
    shares = ", ".join(f"{suite.suite} {suite.error} of {suite.planned}" for suite in bad)
    return Verdict("errors", 1, f"more errors than {max_error_rate:.3g} of the replies: {shares}")


class _Watcher:
    """Shows how far a suite is."""

    def __init__(self, progress: Progress, turn: _Turn) -> None:
        self._progress = progress
        self._turn = turn
        self._counts = dict.fromkeys(Outcome, 0)
        self._reused = 0
        self._shown_s = 0.0

    def reply_ended(self, outcome: Outcome, *, reused: bool) -> None:
        """Count one reply, and draw now and then."""
        self._counts[outcome] += 1
        self._reused += reused
        now_s = time.monotonic()
        if now_s - self._shown_s > _REDRAW_S:
            self._shown_s = now_s
            self._progress.status(self._line())

    def end(self) -> None:
        """Leave the last line on the screen."""
        self._progress.say(self._line())

    def _line(self) -> str:
        done, planned = sum(self._counts.values()), len(self._turn.plan.samples)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self._counts.items() if count)
        reused = f", {self._reused} taken over" if self._reused else ""
        return f"{self._turn.backend} {self._turn.plan.name}: {done}/{planned} done, {counts or 'nothing yet'}{reused}"
