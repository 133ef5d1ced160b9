"""Every way a reply can end, mixed: the same known score alone and in parallel, in one go and killed in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ming_eval.accuracy_results import SuiteResult
from ming_eval.evals.responses import read_responses
from tests.ming_eval.evals.builders import mcq_plan, result_of, run_plan
from tests.ming_eval.evals.scripted import Act, Fail, Hang, Say, ScriptedServer

pytestmark = pytest.mark.slow

NUM_ITEMS = 96
TIMEOUT_S = 0.4
GOLD = "ABCD"

# A run in a process of its own, which can be killed as the system kills.
CHILD = """
import asyncio, sys
from pathlib import Path
from tests.ming_eval.evals.builders import mcq_plan, run_plan
folder, url, concurrency, count, timeout_s = sys.argv[1:]
plan = mcq_plan(Path(folder), int(count))
asyncio.run(run_plan(plan, url, Path(folder), concurrency=int(concurrency), timeout_s=float(timeout_s)))
"""


def acts_of(i: int) -> Sequence[Act]:
    """Sixteen kinds in turn; the letters are those that a rule must make of them, or must not."""
    right, wrong = GOLD[i % 4], GOLD[(i + 1) % 4]
    kinds: list[Sequence[Act]] = [
        (Say(right),),
        (Say(f"**{right}**."),),
        (Say(f"Based on what is asked, the answer is {right}."),),
        (Say(f"答案：{right}"),),
        (Say(f"<think>It might be {wrong}.</think>{right}"),),
        (Say(wrong),),
        (Say(f"Answer: {wrong}"),),
        (Say(f"The answer is {wrong} or {right}"),),  # nearly right
        (Say("I'm sorry, but I can't help with that."),),
        (Say("Let us look at each option in turn", "length"),),
        (Say("All of them are fruit."),),
        (Say(None),),
        (Fail(429, "0"), Say(right)),
        (Fail(500), Fail(503), Say(right)),
        (Fail(400),),
        (Hang(),) if i < 32 else (Say(right),),
    ]
    return kinds[i % len(kinds)]


def script() -> dict[str, Sequence[Act]]:
    return {f"question {i}": acts_of(i) for i in range(NUM_ITEMS)}


def check(result: SuiteResult) -> None:
    """Six items of every kind; of the last one two hang and four are right."""
    outcomes = (result.correct, result.wrong, result.unparsed, result.error, result.skipped)
    assert outcomes == (7 * 6 + 4, 2 * 6, 5 * 6, 6 + 2, 0)
    assert result.accuracy == 46 / 96
    assert result.accuracy_answered == 46 / 58
    assert result.parse_rate == 58 / 88
    assert result.unparsed_reasons == dict.fromkeys(("ambiguous", "refusal", "truncated", "no_answer", "empty"), 6)
    assert result.failures == {"http_4xx": 6, "timeout_total": 2}
    assert result.rules == {"bare": 5 * 6 + 4 + 6, "marked": 3 * 6}


@pytest.mark.parametrize("concurrency", [1, 64])
def test_in_one_go(tmp_path: Path, concurrency: int) -> None:
    plan = mcq_plan(tmp_path, NUM_ITEMS)

    async def go() -> SuiteResult:
        async with ScriptedServer(script()) as server:
            return result_of(
                plan, await run_plan(plan, server.url, tmp_path, concurrency=concurrency, timeout_s=TIMEOUT_S)
            )

    check(asyncio.run(go()))


@pytest.mark.parametrize("concurrency", [1, 64])
def test_killed_in_between(tmp_path: Path, concurrency: int) -> None:
    plan = mcq_plan(tmp_path, NUM_ITEMS)
    with ScriptedServer.in_thread(script(), gate_after=50) as server:
        words = [str(tmp_path), server.url, str(concurrency), str(NUM_ITEMS), str(TIMEOUT_S)]
        child = subprocess.Popen([sys.executable, "-c", CHILD, *words])
        deadline = time.monotonic() + 60
        while len(read_responses(tmp_path)) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.kill()
        child.wait()
        kept = read_responses(tmp_path)
        assert 20 <= len(kept) <= 50
        server.gate_after = None
        before = Counter(server.counts)
        run = asyncio.run(run_plan(plan, server.url, tmp_path, concurrency=concurrency, timeout_s=TIMEOUT_S))
        check(result_of(plan, run))
        final = [each for each in kept.values() if each.failure is None and each.text]
        assert len(run.reused) == len(final)
        for each in final:  # what was answered is not asked again
            question = f"question {each.id.removeprefix('q')}"
            assert server.counts[question] == before[question]
