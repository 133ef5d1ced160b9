"""A suite that several servers share: all of it is answered, whoever is slow, dead or was asked before."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ming_eval.evals.item import Outcome
from ming_eval.evals.plan import Plan
from ming_eval.evals.runner import SuiteRun
from ming_eval.evals.scored import score_all
from tests.ming_eval.evals.builders import mcq_plan, run_plan
from tests.ming_eval.evals.scripted import Act, Fail, Reset, Say, ScriptedServer

GOLD = "ABCD"


def right(count: int, delay_s: float = 0.0) -> dict[str, Sequence[Act]]:
    return {f"question {i}": (Say(GOLD[i % 4], delay_s=delay_s),) for i in range(count)}


def outcomes(plan: Plan, run: SuiteRun) -> Counter[Outcome]:
    return Counter(each.score.outcome for each in score_all(plan, run.responses))


def test_the_faster_server_takes_over_what_the_slower_has_left(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 60)

    async def go() -> tuple[SuiteRun, ScriptedServer, ScriptedServer]:
        async with ScriptedServer(right(60, 0.1)) as slow, ScriptedServer(right(60)) as fast:
            run = await run_plan(plan, [slow.url, fast.url], tmp_path, concurrency=2)
            return run, slow, fast

    run, slow, fast = asyncio.run(go())
    assert outcomes(plan, run) == {Outcome.CORRECT: 60}
    assert slow.num_chats + fast.num_chats == 60
    assert fast.num_chats > 40  # half of them were its own
    assert max(slow.max_running, fast.max_running) <= 2


def test_a_dead_server_costs_no_item(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 60)

    async def go() -> tuple[SuiteRun, ScriptedServer]:
        broken = {f"question {i}": (Reset(),) for i in range(60)}
        async with ScriptedServer(broken) as dead, ScriptedServer(right(60)) as server:
            return await run_plan(plan, [dead.url, server.url], tmp_path, concurrency=4), server

    run, server = asyncio.run(go())
    assert outcomes(plan, run) == {Outcome.CORRECT: 60}
    assert {response.backend for response in run.responses.values()} == {"t"}
    assert max(len(response.attempts) for response in run.responses.values()) == 2
    assert server.max_running <= 4
    assert not run.gave_up


def test_what_fails_everywhere_is_an_error_after_five_attempts(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 4)
    acts = right(4) | {"question 2": (Fail(500),)}

    async def go() -> tuple[SuiteRun, int]:
        async with ScriptedServer(acts) as one, ScriptedServer(acts) as two:
            run = await run_plan(plan, [one.url, two.url], tmp_path)
            return run, one.counts["question 2"] + two.counts["question 2"]

    run, asked = asyncio.run(go())
    assert outcomes(plan, run) == {Outcome.CORRECT: 3, Outcome.ERROR: 1}
    assert asked == 5


def test_a_run_that_goes_on_takes_over_the_answers_of_every_server(tmp_path: Path) -> None:
    """Also of samples that a server took from another."""
    plan = mcq_plan(tmp_path, 40)

    async def go() -> SuiteRun:
        async with ScriptedServer(right(40, 0.02)) as slow, ScriptedServer(right(40)) as fast:
            await run_plan(plan, [slow.url, fast.url], tmp_path, concurrency=2)
            before = slow.num_chats, fast.num_chats
            run = await run_plan(plan, [slow.url, fast.url], tmp_path, concurrency=2)
            assert (slow.num_chats, fast.num_chats) == before
            return run

    assert len(asyncio.run(go()).reused) == 40
