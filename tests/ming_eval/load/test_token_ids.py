"""Which token ids prompts are drawn from, by each of the three ways to know it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from ming_eval.errors import DataError, UsageError
from ming_eval.load.plan import Api, Shape
from ming_eval.load.token_ids import TokenIds, find_token_ids
from ming_eval.load.workload import Prompt, plan_points
from ming_eval.targets import Target
from tests.fakes import FakeServer
from tests.ming_eval.factories import make_plan


def find(server: FakeServer, vocabulary: int | None = None, tokenizer: Path | None = None) -> TokenIds:
    async def play() -> TokenIds:
        async with server:
            return await find_token_ids(Target.at(server.url, name="s"), vocabulary, tokenizer)

    return asyncio.run(play())


def test_a_number_asks_nobody() -> None:
    server = FakeServer()
    found = find(server, 4)
    assert list(found.ids) == [0, 1, 2, 3]
    assert [str(each) for each in (found, TokenIds(range(1), "a test"))] == [
        "4 token ids, by --vocabulary",
        "1 token id, by a test",
    ]
    assert server.seen == []


def test_the_server_leaves_its_control_tokens_out() -> None:
    found = find(FakeServer(tokenizer_info={"vocab_size": 6, "special_token_ids": [0, 4]}))
    assert found == TokenIds([1, 2, 3, 5], "the server")


@pytest.mark.parametrize(
    "info",
    [
        None,
        {"vocab_size": 6},
        ["x"],
        {"vocab_size": 1, "special_token_ids": [0]},
        {"vocab_size": 6, "special_token_ids": [{"id": 0}]},
        {"vocab_size": 10**12, "special_token_ids": []},
    ],
)
def test_a_server_that_does_not_say_is_an_error_that_names_the_way_out(info: Any) -> None:
    with pytest.raises(UsageError, match="s does not say which token ids it has: give --vocabulary N"):
        find(FakeServer(tokenizer_info=info))


@pytest.mark.parametrize("vocab", [{"a": 0, "b": 1, "<s>": 2}, [["a", -1.0], ["b", -2.0], ["<s>", 0.0]]])
def test_a_file_leaves_its_control_tokens_out(tmp_path: Path, vocab: Any) -> None:
    path = tmp_path / "tokenizer.json"
    added = [{"id": 2, "content": "<s>", "special": True}, {"id": 3, "content": "c", "special": False}]
    path.write_text(json.dumps({"model": {"type": "X", "vocab": vocab}, "added_tokens": added}))
    assert list(find(FakeServer(), tokenizer=path).ids) == [0, 1]


@pytest.mark.parametrize("content", ["no json", "{}", '{"model": {"vocab": 5}}', '{"model": {"vocab": {}}}'])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        find(FakeServer(), tokenizer=path)


def test_prompts_are_ids_of_drawn_lengths_and_the_same_each_time() -> None:
    plan = make_plan(api=Api.COMPLETIONS, input_tokens="3..9", requests=200, temperature=1.0, seed_per_request=True)
    vocabulary = TokenIds(range(1000), "a test")
    (point,), (again,) = (list(plan_points(plan, (Prompt("p", "?"),), vocabulary)) for _ in range(2))
    asked = [*point.warmup, *point.measured]
    assert [request.prompt_ids for request in asked] == [
        request.prompt_ids for request in (*again.warmup, *again.measured)
    ]
    prompts = [request.prompt_ids or () for request in asked]
    assert {len(ids) for ids in prompts} == set(range(3, 10))
    assert len({ids[:3] for ids in prompts}) == len(prompts), "no prefix of one is that of another"
    assert all(request.messages == () for request in asked)
    assert set(TokenIds(range(4), "a test").draw(100, random.Random(0))) == {0, 1, 2, 3}


def test_a_trace_brings_its_own_texts_and_the_rest_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 500, "text": "recorded"}\n{"timestamp": 900}\n')
    plan = make_plan(shape=Shape.TRACE, trace=str(path), requests=2, api=Api.COMPLETIONS, input_tokens="5")
    (point,) = plan_points(plan, (Prompt("p", "?"),), TokenIds(range(9), "a test"))
    assert [request.prompt_ids is None for request in point.measured] == [True, False]
