"""Suites against a server with a known true score: outcomes, denominators, retries, resume, early stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ming_eval.evals.item import Outcome
from ming_eval.evals.ordering import OptionOrder
from ming_eval.evals.plan import Plan, make_plan
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.runner import SuiteRun
from ming_eval.evals.scored import score_all
from tests.ming_eval.evals.builders import mcq_plan, result_of, run_plan, without_times
from tests.ming_eval.evals.scripted import Act, Fail, Hang, Reset, Say, ScriptedServer

GOLD = "ABCD"


def right(i: int) -> str:
    return GOLD[i % 4]


def wrong(i: int) -> str:
    return GOLD[(i + 1) % 4]


def the_hundred() -> dict[str, Sequence[Act]]:
    """70 bare right, 10 wrong, 10 right in a sentence, 5 permanent 500, 5 null."""
    acts: dict[str, Sequence[Act]] = {}
    for i in range(100):
        if i < 70:
            act: Act = Say(right(i))
        elif i < 80:
            act = Say(wrong(i))
        elif i < 90:
            act = Say(f"Having looked at all of them, the correct answer is {right(i)}.")
        elif i < 95:
            act = Fail(500)
        else:
            act = Say(None)
        acts[f"question {i}\n"] = (act,)
    return {name.strip(): value for name, value in acts.items()}


def run(
    plan: Plan, acts: Mapping[str, Sequence[Act]], folder: Path, **options: object
) -> tuple[SuiteRun, ScriptedServer]:
    async def go() -> tuple[SuiteRun, ScriptedServer]:
        async with ScriptedServer(acts) as server:
            return await run_plan(plan, server.url, folder, **options), server  # type: ignore[arg-type]

    return asyncio.run(go())


@pytest.mark.parametrize("concurrency", [1, 64])
def test_a_known_true_score(tmp_path: Path, concurrency: int) -> None:
    plan = mcq_plan(tmp_path, 100)
    result = result_of(plan, run(plan, the_hundred(), tmp_path, concurrency=concurrency)[0])
    assert (result.planned, result.correct, result.wrong) == (100, 80, 10)
    assert (result.unparsed, result.error, result.skipped) == (5, 5, 0)
    assert result.accuracy == 0.80
    assert result.accuracy_answered == 80 / 90
    assert result.parse_rate == 90 / 95
    assert (result.possible_low, result.possible_high) == (0.80, 0.85)
    assert result.accuracy_expected == (80 + 5 / 4) / 100
    assert result.unparsed_reasons == {"empty": 5}
    assert result.failures == {"http_5xx": 5}
    assert result.rules == {"bare": 80, "marked": 10}
    assert result.finish_reasons == {"stop": 95}
    assert result.complete  # 5 % errors are allowed, not more
    assert not result_of(plan, run(plan, the_hundred(), tmp_path / "suite")[0], max_error_rate=0.04).complete


@pytest.mark.slow
def test_every_kind_of_trouble_at_once(tmp_path: Path) -> None:
    acts: list[tuple[Sequence[Act], Outcome, str | None]] = [
        ((Say("A"),), Outcome.CORRECT, None),
        ((Say("C"),), Outcome.WRONG, None),
        ((Say("C or D"),), Outcome.UNPARSED, "ambiguous"),
        ((Say("I'm sorry, but I can't help with that."),), Outcome.UNPARSED, "refusal"),
        ((Say("Let me think about this", "length"),), Outcome.UNPARSED, "truncated"),
        ((Say("Well."),), Outcome.UNPARSED, "no_answer"),
        ((Say(""),), Outcome.UNPARSED, "empty"),
        ((Hang(),), Outcome.ERROR, "timeout_total"),
        ((Fail(400),), Outcome.ERROR, "http_4xx"),
        ((Fail(429, "0"), Say("B")), Outcome.CORRECT, None),
        ((Fail(503), Fail(503), Say("C")), Outcome.CORRECT, None),
        ((Reset(), Say("D")), Outcome.CORRECT, None),
        ((Say("A", None),), Outcome.CORRECT, None),  # no finish reason
        ((Fail(500), Fail(500), Fail(500), Fail(500), Say("B")), Outcome.CORRECT, None),
        ((Fail(500), Fail(500), Fail(500), Fail(500), Fail(500), Say("C")), Outcome.ERROR, "http_5xx"),
    ]
    plan = mcq_plan(tmp_path, len(acts))
    script = {f"question {i}": each for i, (each, _, _) in enumerate(acts)}
    found, server = run(plan, script, tmp_path, concurrency=8, timeout_s=2)
    scores = [each.score for each in score_all(plan, found.responses)]
    assert [(score.outcome, score.reason) for score in scores] == [(outcome, reason) for _, outcome, reason in acts]
    assert server.counts["question 14"] == 5  # at most five attempts
    assert server.counts["question 8"] == 1  # other 4xx are final
    attempts = found.responses["q10", 0, 0].attempts
    assert [attempt.http_status for attempt in attempts] == [503, 503, 200]
    assert [attempt.waited_s is None for attempt in attempts] == [False, False, True]


def test_the_server_sees_no_more_requests_at_a_time_than_asked_for(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 30)
    acts = {f"question {i}": (Say("A", delay_s=0.01),) for i in range(30)}
    _, server = run(plan, acts, tmp_path, concurrency=5)
    assert server.max_running == 5


# --- resume ------------------------------------------------------------------------------------------------------


def interrupted_run(plan: Plan, folder: Path, after: int) -> ScriptedServer:
    """Run until the server has answered so many requests, then stop as Ctrl-C does."""

    async def go() -> ScriptedServer:
        async with ScriptedServer(the_hundred(), gate_after=after) as server:
            task = asyncio.create_task(run_plan(plan, server.url, folder, concurrency=2))
            while server.num_chats <= after + 1:
                await asyncio.sleep(0.01)
            task.cancel()
            server.drop()
            with pytest.raises(asyncio.CancelledError):
                await task
            return server

    return asyncio.run(go())


def test_a_stopped_run_goes_on_with_exactly_what_is_missing(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 100)
    whole = result_of(plan, run(plan, the_hundred(), tmp_path / "suite", concurrency=1)[0])
    port = interrupted_run(plan, tmp_path, 50).port
    lines = (tmp_path / "responses.jsonl").read_text().splitlines()
    done = {record["id"] for record in map(json.loads, lines) if record["attempts"][-1]["failure"] is None}
    assert 48 <= len(done) <= 50

    async def again() -> tuple[SuiteRun, ScriptedServer]:
        async with ScriptedServer(the_hundred(), port=port) as server:
            return await run_plan(plan, server.url, tmp_path, concurrency=1), server

    found, server = asyncio.run(again())
    asked = {name.removeprefix("question ") for name in server.counts}
    assert asked == {str(i) for i in range(100)} - {name.removeprefix("q") for name in done}
    assert len(found.reused) == len(done)
    assert without_times(result_of(plan, found)) == without_times(whole)


def test_errors_and_empty_replies_are_asked_again_and_nothing_else(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 100)

    async def twice() -> tuple[ScriptedServer, ScriptedServer]:
        async with ScriptedServer(the_hundred()) as first:
            await run_plan(plan, first.url, tmp_path)
        healed = {f"question {i}": (Say(right(i)),) for i in range(100)}
        async with ScriptedServer(healed, port=first.port) as second:
            found = await run_plan(plan, second.url, tmp_path)
        assert result_of(plan, found).correct == 90
        return first, second

    _, second = asyncio.run(twice())
    assert set(second.counts) == {f"question {i}" for i in range(90, 100)}


def test_another_model_or_address_reuses_nothing(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 10)
    acts = {f"question {i}": (Say(right(i)),) for i in range(10)}

    async def go() -> list[int]:
        async with ScriptedServer(acts) as first, ScriptedServer(acts) as second:
            await run_plan(plan, first.url, tmp_path)
            reused = [
                await run_plan(plan, first.url, tmp_path),
                await run_plan(plan, first.url, tmp_path, model="other"),
            ]
            reused.append(await run_plan(plan, second.url, tmp_path))
            assert (first.num_chats, second.num_chats) == (20, 10)
            return [len(each.reused) for each in reused]

    assert asyncio.run(go()) == [10, 0, 0]


# --- stopping ----------------------------------------------------------------------------------------------------


def test_a_broken_server_ends_the_run_early(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 200)
    found, server = run(plan, {"question": (Fail(400),)}, tmp_path, concurrency=1)
    assert found.gave_up
    assert server.num_chats == 50
    result = result_of(plan, found)
    assert (result.planned, result.error, result.skipped) == (200, 50, 150)
    assert result.failures == {"not_sent": 150, "http_4xx": 50}
    assert not result.complete


def test_half_errors_are_not_enough_to_stop(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 100)
    acts = {f"question {i}": (Fail(400) if i % 2 else Say("A"),) for i in range(100)}
    found, _ = run(plan, acts, tmp_path, concurrency=1)
    assert not found.gave_up
    assert result_of(plan, found).error == 50


@pytest.mark.parametrize(
    ("media", "content"),
    [
        ({"type": "image", "path": "nowhere.png"}, None),
        ({"type": "audio", "path": "sound.amr"}, b"x"),  # a format that the API has no name for
    ],
)
def test_what_cannot_be_sent_is_skipped_and_the_rest_goes_on(
    tmp_path: Path, media: dict[str, str], content: bytes | None
) -> None:
    plan = mcq_plan(tmp_path, 3)
    data = tmp_path / "data.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[1]["media"] = [media]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if content is not None:
        (tmp_path / media["path"]).write_bytes(content)
    plan = make_plan(plan.suite, plan.options)
    acts = {f"question {i}": (Say(right(i)),) for i in range(3)}
    found, server = run(plan, acts, tmp_path)
    result = result_of(plan, found)
    assert (result.correct, result.skipped, result.failures) == (2, 1, {"media_missing": 1})
    assert not result.complete
    assert found.responses["q1", 0, 0].missing
    assert server.num_chats == 2


def test_waiting_for_a_retry_ends_with_the_run(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)

    async def go() -> ScriptedServer:
        async with ScriptedServer({"question 0": (Fail(500),)}) as server:
            slow = RetryPolicy(waits_s=(3600.0,))
            task = asyncio.create_task(run_plan(plan, server.url, tmp_path, retries=slow))
            while server.num_chats < 1:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 60)
            return server

    asyncio.run(go())


# --- repeats and rotations ---------------------------------------------------------------------------------------


def test_repeats_count_items_and_report_agreement(tmp_path: Path) -> None:
    """q0 right twice, q1 right once of twice, q2 wrong twice, q3 right twice."""
    plan = mcq_plan(tmp_path, 4, repeats=2)
    acts = {
        "question 0": (Say("A"),),
        "question 1": (Say("B"), Say("A")),
        "question 2": (Say("A"),),
        "question 3": (Say("D"),),
    }
    result = result_of(plan, run(plan, acts, tmp_path, concurrency=1)[0])
    assert (result.items, result.repeats, result.planned, result.correct) == (4, 2, 8, 5)
    assert result.accuracy == 5 / 8
    assert result.agreement == 3 / 4
    assert result.clusters == 4  # items, not replies, are the sample size
    assert result.repeat_sd == pytest.approx(0.1767767)  # of 3/4 and 2/4


def test_rotations_show_a_model_that_always_says_a(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 5, order=OptionOrder.CYCLIC)
    result = result_of(plan, run(plan, {"question": (Say("A"),)}, tmp_path)[0])
    assert (result.planned, result.accuracy) == (20, 0.25)
    assert result.agreement == 0.0
    assert result.predicted == {"A": 20}


def test_rotations_of_a_model_that_knows(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 4, order=OptionOrder.CYCLIC)
    texts = {f"question {i}": (Say(("Apples", "Pears", "Berries", "Nuts")[i]),) for i in range(4)}
    result = result_of(plan, run(plan, texts, tmp_path)[0])
    assert (result.accuracy, result.agreement, result.rules) == (1.0, 1.0, {"optiontext": 16})
