"""The process that steers shared answering, with workers whose words are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from ming_eval.commands.accuracy_crew import AnswerCrew
from ming_eval.commands.accuracy_settings import AccuracySettings
from ming_eval.commands.accuracy_turns import Turn
from ming_eval.commands.accuracy_worker import Answered, AnswerNews, AnswerSpec, GiveUp
from ming_eval.evals.item import Outcome
from ming_eval.evals.ordering import OptionOrder
from ming_eval.evals.plan import Method
from ming_eval.evals.retry import RetryPolicy
from ming_eval.load.links import ClockOffset
from ming_eval.report.progress import Progress
from ming_eval.targets import Target
from tests.ming_eval.evals.builders import mcq_plan


class ScriptedLink:
    """Says its news in order; before the last one it waits for another word of the crew where it is `told_to_wait`."""

    host = "here"

    def __init__(self, news: Sequence[AnswerNews], *, told_to_wait: bool) -> None:
        self.heard: list[bytes] = []
        self._news = [*news, AnswerNews("end")]
        self._told_to_wait = told_to_wait
        self._was_told = asyncio.Event()

    async def start(self) -> None: ...

    async def clock(self) -> ClockOffset:
        return ClockOffset(0.0, 0.0)

    def folder(self, wanted: str) -> str:
        return wanted

    async def prepare(self, files: Mapping[str, bytes]) -> None: ...

    async def send(self, line: bytes) -> None:
        self.heard.append(line)
        if len(self.heard) > 1:
            self._was_told.set()

    async def receive(self) -> bytes:
        if len(self._news) == 1 and self._told_to_wait:
            await self._was_told.wait()
        return msgspec.json.encode(self._news.pop(0))

    async def stop(self) -> int | None:
        return 0

    async def files(self) -> Mapping[str, bytes]:
        return {}


def answers(turn: int, worker: int, outcomes: Sequence[Outcome]) -> AnswerNews:
    said = tuple(Answered(f"{worker}.{i}", 0, 0, f"k{turn}.{worker}.{i}", o, False) for i, o in enumerate(outcomes))
    return AnswerNews("answers", turn=turn, answers=said)


def spec(folder: Path) -> AnswerSpec:
    settings = AccuracySettings(
        **{"suites": ("fruit",), "protocol": None, "method": Method.GENERATE, "data": None, "examples": None},
        **{"media_root": None, "limit": None, "per_group": None, "repeats": 1, "option_order": OptionOrder.ORIGINAL},
        **{"seed": 0, "concurrency": 2, "shard": False, "timeout_s": 1.0, "max_error_rate": 0.05},
    )
    return AnswerSpec(
        settings=settings, targets=(), folder=str(folder), cwd=str(folder), is_launched=False, retries=RetryPolicy()
    )


@pytest.mark.parametrize("num_errors", [25, 26])
def test_more_than_half_of_the_last_50_replies_of_all_processes_end_the_turn_for_all(
    tmp_path: Path, num_errors: int
) -> None:
    """No process has 50 replies of its own; errors of another suite do not count."""
    is_too_many = num_errors > 25
    outcomes = [Outcome.ERROR] * num_errors + [Outcome.CORRECT] * (50 - num_errors)
    plan = mcq_plan(tmp_path, 1)
    turns = [Turn(plan, (Target.at("http://s:1", name="s", model="m"),)) for _ in range(2)]

    async def go() -> list[ScriptedLink]:
        scripts = [[answers(0, k, outcomes[:20]), answers(1, k, outcomes[k::2])] for k in range(2)]
        links = [ScriptedLink(script, told_to_wait=is_too_many) for script in scripts]
        with Progress() as progress:
            await asyncio.wait_for(AnswerCrew(spec(tmp_path), turns, links, progress).run(), 30)
        return links

    for link in asyncio.run(go()):
        later = [msgspec.json.decode(line, type=GiveUp) for line in link.heard[1:]]
        assert later == ([GiveUp(1)] if is_too_many else [])
    assert [turn.asked is not None and turn.asked.gave_up for turn in turns] == [False, is_too_many]
