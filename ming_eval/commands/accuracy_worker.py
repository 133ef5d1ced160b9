"""One of several processes that share an accuracy run: `python -m ming_eval.commands.accuracy_worker`.

It is started and steered by `commands.accuracy_crew`, which tells it in one line what to do. It makes the plans itself,
from data of its host, and asks its items of every suite; each answer is a line in a file of its own before the crew
hears of it. The crew ends a turn for all of them with a further line. When its standard input is closed it stops and
keeps what it has.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from ming_eval.commands.accuracy_settings import AccuracySettings, make_plans
from ming_eval.commands.accuracy_turns import Asker, turns_of
from ming_eval.errors import DataError
from ming_eval.evals.item import Outcome
from ming_eval.evals.plan import Plan, Sample
from ming_eval.evals.responses import Response, ResponseLog
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.runner import SuiteRun
from ming_eval.load import interrupt
from ming_eval.load.wire import News, Wire
from ming_eval.run_folder import Redactor
from ming_eval.targets import Target

_REPORT_S = 0.25


class AnswerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. Relative paths of the settings are below `cwd`; `secrets` are masked in files."""

    settings: AccuracySettings
    targets: tuple[Target, ...]
    folder: str
    cwd: str
    is_launched: bool
    retries: RetryPolicy
    index: int = 0
    count: int = 1
    secrets: tuple[str, ...] = ()


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """One answer that is in the worker's file, or was there before, under `key`."""

    id: str
    repeat: int
    rotation: int
    key: str
    outcome: Outcome
    reused: bool


class AnswerNews(News, omit_defaults=True):
    """What a worker says of a turn: answers since it last spoke, and at its end (`turn_ended`) how it went."""

    turn: int = 0
    answers: tuple[Answered, ...] = ()
    span_s: tuple[float, float] | None = None
    gave_up: bool = False


class GiveUp(msgspec.Struct, frozen=True):
    """Any further line: nothing more is to be sent for this turn."""

    turn: int


def own_samples(samples: Sequence[Sample], index: int, count: int) -> tuple[Sample, ...]:
    """Those of process `index` of `count`: every `count`-th item, each with all its repeats and rotations."""
    places = {name: place for place, name in enumerate(dict.fromkeys(sample.item.id for sample in samples))}
    return tuple(sample for sample in samples if places[sample.item.id] % count == index)


class _Reporter:
    """Tells what was answered, four times a second and not for each answer."""

    def __init__(self, wire: Wire, turn: int) -> None:
        self._wire = wire
        self._turn = turn
        self._waiting: list[Answered] = []
        self._told_s = 0.0

    def reply_ended(self, response: Response, outcome: Outcome, *, reused: bool) -> None:
        self._waiting.append(
            Answered(response.id, response.repeat, response.rotation, response.key, outcome, reused=reused)
        )
        if time.perf_counter() - self._told_s > _REPORT_S:
            self._told_s = time.perf_counter()
            self._tell(AnswerNews("answers"))

    def end(self, run: SuiteRun, *, is_whole: bool) -> None:
        """The rest, also of a turn that was cut short."""
        self._tell(AnswerNews("turn_ended" if is_whole else "answers", span_s=run.span_s, gave_up=run.gave_up))

    def _tell(self, news: AnswerNews) -> None:
        news.turn, news.answers = self._turn, tuple(self._waiting)
        self._waiting.clear()
        self._wire.say(news)


class _Turns:
    """Which turn is on, and which the crew has given up; those may be to come here, or over."""

    def __init__(self) -> None:
        self._given_up: set[int] = set()
        self._now: tuple[int, SuiteRun] | None = None

    def begin(self, turn: int, run: SuiteRun) -> None:
        self._now = turn, run
        self._end_given_up()

    async def listen(self, wire: Wire) -> None:
        """Do as the crew says for as long as it is there."""
        while line := await wire.read():
            self._given_up.add(msgspec.json.decode(line, type=GiveUp).turn)
            self._end_given_up()

    def _end_given_up(self) -> None:
        if self._now is not None and self._now[0] in self._given_up:
            self._now[1].give_up()


async def work() -> None:
    """Do what the first line says."""
    wire = await Wire.connect()
    spec = msgspec.json.decode(await wire.read(), type=AnswerSpec)
    turns = _Turns()
    asking, listening = asyncio.create_task(_ask(spec, wire, turns)), asyncio.create_task(turns.listen(wire))
    await asyncio.wait((asking, listening), return_when=asyncio.FIRST_COMPLETED)
    for task in (asking, listening):
        task.cancel()
    (result, _) = await asyncio.gather(asking, listening, return_exceptions=True)
    wire.end(result)


async def _ask(spec: AnswerSpec, wire: Wire, turns: _Turns) -> None:
    settings = spec.settings
    plans = [
        replace(plan, samples=own_samples(plan.samples, spec.index, spec.count))
        for plan in await asyncio.to_thread(_plans, spec)
    ]
    concurrency = len(range(spec.index, settings.concurrency, spec.count))
    asker = Asker(settings, plans, spec.retries, is_launched=spec.is_launched)
    try:
        with ResponseLog(Path(spec.folder), Redactor(spec.secrets), worker=spec.index) as log:
            for index, turn in enumerate(turns_of(plans, spec.targets, is_shared=settings.shard)):
                reporter = _Reporter(wire, index)
                async with asker.suite_run(turn, log, reporter, concurrency) as run:
                    turns.begin(index, run)
                    is_whole = False
                    try:
                        await run.run()
                        is_whole = True
                    finally:
                        reporter.end(run, is_whole=is_whole)
    finally:
        asker.close()


def _plans(spec: AnswerSpec) -> list[Plan]:
    """The plans of the run, from what lies on this host.

    Raises:
        UsageError: a suite is not there, or a package is missing.
        DataError: the data is not there, or is not what the run has.
    """
    if Path(spec.cwd).is_dir():
        os.chdir(spec.cwd)
    plans = make_plans(spec.settings)
    if spec.settings.with_digests(plans) != spec.settings:
        raise DataError(
            f"worker {spec.index}: suites or data of its host are not those of this one: put the same files on both"
        )
    return plans


if __name__ == "__main__":
    interrupt.run(work())
