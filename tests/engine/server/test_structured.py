"""response_format: which schemas are let in, what becomes of them, and what is said about the others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.inputs.tokenizer import Tokenizer
from engine.server import structured
from engine.server.grammar_check import GrammarCheck
from engine.server.grammar_worker import Vocabulary
from tests.engine.server.endpoint import chat_body, endpoint, on_loop
from tests.engine.server.fake_engine import INFO, TOKENIZER

CHAT = "/v1/chat/completions"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def json_schema(schema: object, **fields: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


def nested(depth: int) -> dict[str, Any]:
    """A schema of lists in lists, this many levels deep."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


def many(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(count)}}


# (response_format, part of the message); none of these is ever compiled
REFUSED: list[tuple[Any, str]] = [
    ({"type": "yaml"}, "text, json_object or json_schema"),
    ({"type": "json_schema"}, "json_schema is required"),
    ({"type": "json_schema", "json_schema": {"name": "a"}}, "json_schema.schema is required"),
    (json_schema(SCHEMA, name="not a name"), "1 to 64 letters"),
    (json_schema({"enum": ["x" * 70_000]}), "at most 65536 are accepted"),
    (json_schema(nested(33)), "more than 32 levels"),
    (json_schema(many(1001)), "more than 1000 properties"),
    (json_schema({"enum": list(range(1001))}), "more than 1000 enum values"),
    (json_schema({"anyOf": [{"enum": list(range(600))}, {"enum": list(range(600))}]}), "more than 1000 enum values"),
    (json_schema({"$ref": "https://example.org/schema.json"}), "only references within the schema"),
    (json_schema({"properties": {"x": {"$ref": "file:///etc/passwd"}}}), "only references within the schema"),
    (json_schema({"type": "string", "pattern": r"(a)\1"}), "back-reference"),
    (json_schema({"not": {}, "x-guidance": {"lenient": True}}), "x-guidance"),
    (json_schema({"type": "object", "patternProperties": {r"(?<n>a)\k<n>": {}}}), "back-reference"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[1][:30])
@on_loop
async def test_refused_before_it_is_compiled(case: tuple[Any, str]) -> None:
    response_format, message = case
    async with endpoint() as server:
        status, error = await server.refused(CHAT, chat_body(response_format=response_format))
        assert server.engine.requests == []
    assert (status, error["param"]) == (400, "response_format")
    assert error["code"] in ("invalid_value", "missing_field")
    assert message in error["message"]


@pytest.mark.parametrize(
    "schema",
    [
        nested(32),
        {"properties": {"enum": {"type": "string"}, "$ref": {"type": "string"}, "pattern": {"type": "null"}}},
        {"const": {"$ref": "https://example.org"}, "default": {"pattern": r"\1"}},
        {"type": "string", "pattern": r"\\1"},  # an escaped backslash, then a digit
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}},
    ],
)
def test_what_only_looks_like_it_passes(schema: dict[str, Any]) -> None:
    structured._Count().take(schema)


@on_loop
async def test_without_the_library_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "is_available", lambda: False)
    async with endpoint() as server:
        status, error = await server.refused(CHAT, chat_body(response_format={"type": "json_object"}))
        assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", "response_format")
        assert "ming-eval[structured]" in error["message"]
        await server.chat(response_format={"type": "text"})


@on_loop
async def test_without_tokenizer_no_schema() -> None:
    async with endpoint(tokenizer=None) as server:
        body = {"prompt": [5], "return_token_ids": True, "response_format": {"type": "json_object"}}
        status, error = await server.refused("/v1/completions", body)
    assert (status, error["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize("field", [{"ignore_eos": True}, {"min_tokens": 3}])
@on_loop
async def test_the_end_must_be_free(field: dict[str, Any]) -> None:
    async with endpoint() as server:
        body = chat_body(response_format={"type": "json_object"}, **field)
        status, error = await server.refused(CHAT, body)
    assert (status, error["param"]) == (400, next(iter(field)))


@pytest.mark.slow
@on_loop
async def test_schemas_reach_the_engine_and_those_that_do_not_compile_are_refused() -> None:
    impossible = [
        ({"type": "object", "not": {"type": "null"}}, "keywords that cannot be enforced: not"),
        ({"type": "string", "pattern": "(?<=a)b"}, "pattern that cannot be enforced"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "cannot be satisfied"),
        ({"type": "colour"}, "not a valid JSON schema"),
        ({"type": "string", "format": "colour"}, "format of strings"),
        ({"$ref": "#/$defs/none"}, "a part that it does not have"),
        ({"type": "string", "pattern": "^(a?){500}(a){500}$"}, "too complex"),
    ]
    async with endpoint() as server:
        await server.chat(response_format=json_schema(SCHEMA), n=2)
        await server.chat(response_format={"type": "json_object"})
        await server.complete("a", response_format=json_schema(many(1000)))
        schemas = [json.loads(request.sampling.json_schema or "null") for request in server.engine.requests]
        assert schemas == [SCHEMA, SCHEMA, {"type": "object"}, many(1000)]
        for schema, message in impossible:
            status, error = await server.refused(CHAT, chat_body(response_format=json_schema(schema)))
            assert (status, error["code"], error["param"]) == (400, "invalid_value", "response_format")
            assert message in error["message"]
            assert len(error["message"]) < 200
        assert len(server.engine.requests) == 4


@asynccontextmanager
async def checking(limit_s: float = 10.0) -> AsyncIterator[GrammarCheck]:
    check = GrammarCheck(replace(vocabulary(TOKENIZER), limit_s=limit_s))
    try:
        yield check
    finally:
        await check.close()


@pytest.mark.slow
@on_loop
async def test_schema_that_takes_too_long_costs_its_worker_alone() -> None:
    async with checking(limit_s=0.001) as check:
        for _ in range(2):  # it is remembered
            with pytest.raises(structured.InvalidRequest, match=r"more than 0\.001 s"):
                await check.check(json.dumps(many(1000)))
            check._vocabulary = replace(check._vocabulary, limit_s=10.0)
        await asyncio.gather(*(check.check(json.dumps(SCHEMA) + " " * n) for n in range(3)))


@pytest.mark.slow
@on_loop
async def test_worker_that_somebody_kills_says_nothing_of_the_schema() -> None:
    """Neither while it starts nor while it works: the request passes, and nothing is remembered against its schema."""
    async with checking() as check:
        for schema in (json.dumps(SCHEMA), json.dumps(many(3))):
            job = asyncio.create_task(check.check(schema))
            while check._worker is None:
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)  # the second schema is on its way
            os.kill(check._worker.pid, signal.SIGKILL)
            await job
            os.kill(check._worker.pid, signal.SIGSTOP)  # it can take the next schema, and does not answer


@pytest.mark.slow
@on_loop
async def test_client_that_leaves_costs_the_others_no_worker() -> None:
    async with checking() as check:
        await check.check(json.dumps(SCHEMA))
        assert check._worker is not None
        pid = check._worker.pid
        os.kill(pid, signal.SIGSTOP)  # so that the schema is still being tried when its client leaves
        job = asyncio.create_task(check.check(json.dumps(many(2))))
        await asyncio.sleep(0.05)
        job.cancel()
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await job
        await check.check(json.dumps(many(3)))
        assert check._worker.pid == pid


@pytest.mark.slow
@on_loop
async def test_worker_that_does_not_start_is_a_failure_and_no_empty_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "llguidance.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *sys.path)))
    async with endpoint() as server:
        for _ in range(2):
            status, error = await server.refused(CHAT, chat_body(response_format={"type": "json_object"}))
            assert (status, error["code"]) == (500, "internal_error")


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.serialized, INFO.vocab_size, INFO.eos_token_ids)
