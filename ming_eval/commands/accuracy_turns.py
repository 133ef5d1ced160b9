"""What an accuracy run asks, suite by suite, and with what: the part that every process of a shared run has as well."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from ming_eval.client import Client, Timeouts, probe
from ming_eval.commands.accuracy_settings import AccuracySettings
from ming_eval.errors import TargetError, UsageError
from ming_eval.evals.answerer import Answerer, ChatAnswerer
from ming_eval.evals.asking import Server
from ming_eval.evals.http import Session
from ming_eval.evals.item import Kind, Outcome
from ming_eval.evals.local_recogniser import LocalRecogniser
from ming_eval.evals.loglikelihood import LikelihoodAnswerer
from ming_eval.evals.plan import Method, Plan
from ming_eval.evals.recogniser import Listener, Recogniser, parse_judge
from ming_eval.evals.responses import Response, ResponseLog
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.runner import Observer, SampleKey, SuiteRun
from ming_eval.evals.speaking import SpeechAnswerer
from ming_eval.report.progress import Progress
from ming_eval.targets import Target

_REDRAW_S = 0.5


class Asked(Protocol):
    """What has come of a suite so far."""

    @property
    def responses(self) -> Mapping[SampleKey, Response]: ...
    @property
    def reused(self) -> Collection[SampleKey]: ...
    @property
    def gave_up(self) -> bool: ...
    @property
    def wall_s(self) -> float | None: ...


@dataclass(slots=True)
class Turn:
    """One suite at one backend, or at several that share it; `asked` is None until it is its turn."""

    plan: Plan
    targets: tuple[Target, ...]
    asked: Asked | None = None

    @property
    def backend(self) -> str:
        return backend_name([target.name for target in self.targets])


def backend_name(names: Sequence[str]) -> str:
    """How a backend is called in results, or several that share a suite."""
    return "+".join(names)


def turns_of(plans: Sequence[Plan], targets: Sequence[Target], *, is_shared: bool) -> list[Turn]:
    """Every suite at every backend, or at all of them together.

    Raises:
        UsageError: backends that share suites serve different models.
    """
    if is_shared:
        _refuse_other_models(targets)
    groups = [tuple(targets)] if is_shared else [(target,) for target in targets]
    return [Turn(plan, group) for group in groups for plan in plans]


class Asker:
    """Makes what asks the servers; holds the recogniser where it is on this machine."""

    def __init__(
        self, settings: AccuracySettings, plans: Sequence[Plan], retries: RetryPolicy, *, is_launched: bool
    ) -> None:
        self._settings = settings
        self._retries = retries
        self._is_launched = is_launched
        self._ear = _local_recogniser(settings, plans)

    @asynccontextmanager
    async def suite_run(
        self, turn: Turn, log: ResponseLog, observer: Observer, concurrency: int | None = None
    ) -> AsyncIterator[SuiteRun]:
        """The run of a turn with its connections open; `concurrency` is that of the settings unless given."""
        async with AsyncExitStack() as stack:
            answerers = [await stack.enter_async_context(self._answerer(turn.plan, each)) for each in turn.targets]
            concurrency = concurrency or self._settings.concurrency
            yield SuiteRun(turn.plan, answerers, log, observer, concurrency=concurrency, retries=self._retries)

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
            await _refuse_absent(target)
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


async def _refuse_absent(judge: Target) -> None:
    """Without a recogniser every word would be lost, which is no figure of the speech."""
    try:
        await probe.fetch_version(judge)  # any answer will do
    except TargetError as exc:
        raise TargetError(f"the judge {judge.model}: {exc}") from exc


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


class Watcher:
    """Shows how far a suite is."""

    def __init__(self, progress: Progress, turn: Turn) -> None:
        self._progress = progress
        self._turn = turn
        self._counts = dict.fromkeys(Outcome, 0)
        self._reused = 0
        self._shown_s = 0.0

    def reply_ended(self, _response: Response | None, outcome: Outcome, *, reused: bool) -> None:
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
