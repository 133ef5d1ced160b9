from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ming_eval.errors import TargetError
from ming_eval.evals.asking import Server
from ming_eval.evals.http import Session
from ming_eval.evals.item import Outcome
from ming_eval.evals.loglikelihood import LikelihoodAnswerer, _Logprobs, completion_prompt, continuation_logprob
from ming_eval.evals.plan import Method
from ming_eval.evals.responses import ResponseLog
from ming_eval.evals.runner import SuiteRun
from ming_eval.evals.scored import Scored, score_all
from ming_eval.run_folder import Redactor
from ming_eval.targets import Target
from ming_eval.types import Message, Text
from tests.ming_eval.evals.builders import AT_ONCE, Tally, mcq_plan

Handler = Callable[[dict[str, Any]], Any]


def entry(prompt: str, index: int, last: float) -> dict[str, Any]:
    """A choice as servers echo it: a first token without probability, one for the letter, one generated."""
    head = prompt[:-2]
    tokens, values = [head, prompt[-2:], " x"], [None, last, -9.0]
    offsets = [0, len(head), len(prompt)]
    logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets, "top_logprobs": None}
    return {"index": index, "text": prompt + " x", "logprobs": logprobs, "finish_reason": "length"}


def ask(tmp_path: Path, handler: Handler, count: int = 4) -> tuple[list[Scored], list[dict[str, Any]]]:
    plan = mcq_plan(tmp_path, count, method=Method.LOGLIKELIHOOD, protocol="letter")
    bodies: list[dict[str, Any]] = []

    async def completions(request: web.Request) -> web.Response:
        body = await request.json()
        bodies.append(body)
        return web.json_response(handler(body))

    async def go() -> SuiteRun:
        app = web.Application()
        app.router.add_post("/v1/completions", completions)
        async with TestServer(app) as server:
            target = Target.at(str(server.make_url("/")), name="s", model="m")
            with ResponseLog(tmp_path, Redactor()) as log_file:
                async with Session(target, timeout_s=5, connections=2) as session:
                    answerer = LikelihoodAnswerer(session, Server("m", "x"))
                    run = SuiteRun(plan, [answerer], log_file, Tally(), concurrency=2, retries=AT_ONCE)
                    await run.run()
        return run

    return score_all(plan, asyncio.run(go()).responses), bodies


def prefers(letter: str) -> Handler:
    def answer(body: dict[str, Any]) -> Any:
        values = [log(0.7) if prompt.endswith(letter) else log(0.1) for prompt in body["prompt"]]
        pairs = enumerate(zip(body["prompt"], values, strict=True))
        return {"choices": [entry(prompt, index, value) for index, (prompt, value) in pairs]}

    return answer


def test_the_likeliest_letter_is_the_answer(tmp_path: Path) -> None:
    scored, bodies = ask(tmp_path, prefers("C"))
    assert [each.score.outcome for each in scored] == [Outcome.WRONG, Outcome.WRONG, Outcome.CORRECT, Outcome.WRONG]
    assert {each.score.extracted for each in scored} == {"C"}
    assert {each.score.rule for each in scored} == {"loglikelihood"}
    body = bodies[0]
    assert (body["echo"], body["logprobs"], body["model"]) == (True, 1, "m")
    assert [prompt[-3:] for prompt in body["prompt"]] == [": A", ": B", ": C", ": D"]


def test_choices_may_come_in_any_order(tmp_path: Path) -> None:
    def reverse(body: dict[str, Any]) -> Any:
        reply = prefers("B")(body)
        reply["choices"].reverse()
        return reply

    scored, _ = ask(tmp_path, reverse, count=2)
    assert {each.score.extracted for each in scored} == {"B"}


def test_a_tie_is_no_answer(tmp_path: Path) -> None:
    scored, _ = ask(tmp_path, prefers("nothing"), count=1)
    assert (scored[0].score.outcome, scored[0].score.reason) == (Outcome.UNPARSED, "ambiguous")


@pytest.mark.parametrize(
    "reply",
    [
        {"choices": [{"index": 0, "text": "x", "logprobs": None}]},
        {"choices": []},
        {"error": {"message": "no"}},
        {"choices": [{"index": i, "logprobs": {"tokens": ["x"], "token_logprobs": [None]}} for i in range(4)]},
    ],
)
def test_a_server_without_echo_gives_errors_not_zeros(tmp_path: Path, reply: Any) -> None:
    scored, _ = ask(tmp_path, lambda _body: reply, count=1)
    assert (scored[0].score.outcome, scored[0].score.reason) == (Outcome.ERROR, "malformed")


def test_a_server_without_the_endpoint_ends_the_run(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 2, method=Method.LOGLIKELIHOOD, protocol="letter")

    async def go() -> None:
        async with TestServer(web.Application()) as server:
            target = Target.at(str(server.make_url("/")), name="s", model="m")
            with ResponseLog(tmp_path, Redactor()) as log_file:
                async with Session(target, timeout_s=5, connections=2) as session:
                    answerer = LikelihoodAnswerer(session, Server("m", "x"))
                    await SuiteRun(plan, [answerer], log_file, Tally(), concurrency=2).run()

    with pytest.raises(TargetError, match=r"--method loglikelihood needs .*HTTP 404"):
        asyncio.run(go())


def test_tokens_that_reach_into_the_continuation_count() -> None:
    """`Answer:` + ` A` as tokens `Ans`, `wer: `, `A`, and one that was generated."""
    logprobs = _Logprobs(tokens=["Ans", "wer: ", "A", "!"], token_logprobs=[None, -1.0, -2.0, -50.0])
    assert continuation_logprob(logprobs, len("Answer:"), len("Answer: A")) == -3.0
    exact = _Logprobs(tokens=["Answer:", " A"], token_logprobs=[None, -2.0], text_offset=[0, 7])
    assert continuation_logprob(exact, 7, 9) == -2.0


def test_a_conversation_as_plain_text() -> None:
    messages = [
        Message("user", (Text("Q1"),)),
        Message("assistant", (Text("A"),)),
        Message("user", (Text("Q2"),)),
    ]
    assert completion_prompt(messages) == "Q1 A\n\nQ2"
