"""Rows of the HTTP contract that hold for all routes alike, as tables over one running server each.

What only one route has is tested where that route is: fields of a chat in test_validation, of speech in test_speech,
of forms in test_transcription, order of streams in test_stream, schemas in test_structured.
"""

from __future__ import annotations

import json
import re
from typing import Any

from engine.server.openapi import describe
from engine.tiny.vocabulary import VOCAB_SIZE
from tests.engine.server.endpoint import MODEL, Endpoint, chat_body, endpoint, on_loop
from tests.engine.server.fake_engine import CONTEXT, FakeEngine, says
from tests.engine.server.test_validation import INVALID, REFUSED

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PROMPT_FIELDS = ("messages", "modalities", "chat_template_kwargs", "reasoning_effort", "tools", "tool_choice")
CHAT_ONLY = ("max_completion_tokens", "logprobs", "top_logprobs", *PROMPT_FIELDS)

# Both ends of every range are part of it.
ENDS: list[dict[str, Any]] = [
    *({"temperature": value} for value in (0, 2)),
    *({"top_p": value} for value in (1e-6, 1)),
    *({"top_k": value} for value in (-1, 0, 1, VOCAB_SIZE)),
    *({"min_p": value} for value in (0, 1)),
    *({name: value} for name in ("presence_penalty", "frequency_penalty") for value in (-2, 2)),
    *({"repetition_penalty": value} for value in (1e-6, 2)),
    *({"seed": value} for value in (-(2**63), 0, 2**64 - 1)),
    *({"stop": value} for value in ("x", ["x" * 256] * 16, [], None)),
    *({"stop_token_ids": value} for value in ([], [0] * 16, [VOCAB_SIZE - 1])),
    {"include_stop_str_in_output": True, "stop": "x"},
    {"min_tokens": 0},
    {"min_tokens": 5, "max_tokens": 5},
    *({"n": value} for value in (1, 16)),
    {"logit_bias": {str(token): -100 + token % 201 for token in range(1024)}},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "stream": True},
    {"response_format": {"type": "text"}},
]

UNUSED: dict[str, Any] = {
    "user": "someone",
    "metadata": {"run": "1"},
    "store": True,
    "parallel_tool_calls": True,
    "service_tier": "auto",
}


def completion_body(**fields: object) -> dict[str, Any]:
    return {"prompt": "Hi", "max_tokens": 8, **fields}


async def status_of(server: Endpoint, path: str, body: dict[str, Any]) -> tuple[int, str]:
    async with server.session.post(server.url + path, json=body) as response:
        return response.status, await response.text()


@on_loop
async def test_ends_of_ranges_are_accepted_by_both_routes() -> None:
    async with endpoint(FakeEngine(says("ok"))) as server:
        for fields in [*ENDS, *({name: value} for name, value in UNUSED.items()), {"a_name_nobody_knows": 1}]:
            for path, body in ((CHAT, chat_body(max_tokens=8)), (COMPLETIONS, completion_body())):
                status, text = await status_of(server, path, body | fields)
                assert status == 200, (path, fields, text)
        for fields in ({"max_tokens": 1}, {"max_completion_tokens": 1}, {"logprobs": True, "top_logprobs": 20}):
            assert (await status_of(server, CHAT, chat_body(**fields)))[0] == 200
        for fields in ({"logprobs": 0}, {"logprobs": 20}, {"prompt": ["a"] * 256}, {"max_tokens": CONTEXT - 2}):
            assert (await status_of(server, COMPLETIONS, completion_body(**fields)))[0] == 200, fields
        many = [{"role": "user", "content": ""}] * 40
        assert (await status_of(server, CHAT, {"messages": many, "max_tokens": 1}))[0] == 200


@on_loop
async def test_completions_check_the_fields_that_they_share_with_chats() -> None:
    shared = [case for case in INVALID if not case[0].keys() & set(CHAT_ONLY) and case[0] != {"max_tokens": 0}]
    assert len(shared) > 30
    async with endpoint() as server:
        for fields, param, message in shared:
            status, error = await server.refused(COMPLETIONS, {"prompt": "a"} | fields)
            assert (status, error["code"], error["param"]) == (400, "invalid_value", param), fields
            assert message in error["message"]
        assert server.engine.requests == []


@on_loop
async def test_completions_refuse_what_chats_refuse() -> None:
    top_level = [case for case in REFUSED if not case[0].keys() & {*PROMPT_FIELDS}]
    assert len(top_level) >= 11
    async with endpoint() as server:
        for fields, param, code in top_level:
            status, error = await server.refused(COMPLETIONS, {"prompt": "a"} | fields)
            assert (status, error["code"], error["param"]) == (400, code, param), fields


def assert_envelope(status: int, text: str) -> None:
    """Section 8: four keys, a code that is a word, a short message without a trace of our insides."""
    error = json.loads(text)["error"]
    assert json.loads(text).keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert re.fullmatch(r"[a-z_]+", error["code"]), error
    assert error["param"] is None or isinstance(error["param"], str)
    kinds = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error", 504: "timeout_error"}
    expected = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    assert error["type"] == expected
    assert 10 < len(error["message"]) < 600
    assert not re.search(r"Traceback|msgspec|aiohttp|/engine/|\.py|0x[0-9a-f]{6}", error["message"]), error


@on_loop
async def test_every_error_is_the_envelope() -> None:
    long = "x" * 5000
    bodies: list[tuple[str, Any]] = [
        *((CHAT, chat_body() | fields) for fields, *_ in INVALID + REFUSED),  # type: ignore[operator]
        (CHAT, chat_body(model=long)),
        (CHAT, chat_body(reasoning_effort=long)),
        (CHAT, chat_body(**{long: 1}, temperature=9)),
        (CHAT, chat_body(chat_template_kwargs={long: 1})),
        (CHAT, {"messages": [{"role": long, "content": "a"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 200_000}]}),
        (COMPLETIONS, {"prompt": [1] * CONTEXT}),
        (COMPLETIONS, {"prompt": {long: long}}),
        (COMPLETIONS, [1, 2]),
        (COMPLETIONS, long),
        ("/tokenize", {"prompt": 1}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/v1/audio/speech", {"input": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/health", {}),
    ]
    async with endpoint() as server:
        for path, body in bodies:
            status, text = await status_of(server, path, body)
            assert 400 <= status < 500, (path, str(body)[:200], text)
            assert_envelope(status, text)
        assert server.engine.requests == []


@on_loop
async def test_context_message_is_what_clients_search_for() -> None:
    async with endpoint() as server:
        for path, body in (
            (CHAT, chat_body("a" * CONTEXT)),
            (CHAT, chat_body(max_tokens=CONTEXT)),
            (COMPLETIONS, completion_body(prompt="a" * CONTEXT)),
            (COMPLETIONS, completion_body(prompt=["a", "a" * CONTEXT])),
        ):
            status, error = await server.refused(path, body)
            assert (status, error["code"]) == (400, "context_length_exceeded")
            assert re.fullmatch(
                rf"This model's maximum context length is {CONTEXT} tokens\. However, you requested \d+ output "
                r"tokens and your prompt contains (at least )?\d+ input tokens\. Please reduce the length of the "
                r"input prompt or the number of requested output tokens\.",
                error["message"],
            ), error["message"]


@on_loop
async def test_every_answer_carries_a_label_and_no_route_describes_the_others() -> None:
    async with endpoint() as server:
        for path in describe()["paths"]:
            async with server.session.get(server.url + path.replace("{name}", MODEL)) as response:
                assert response.status in (200, 405), path
                assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", response.headers["X-Request-Id"])
                assert response.headers["Server"] == "ming-eval"
        for path in (
            "/openapi.json",
            "/docs",
            "/redoc",
            "/",
            "/v1",
            "/v1/load_lora_adapter",
            "/start_profile",
            "/pause",
        ):
            status, text = (await server.get(path))[0], json.dumps((await server.get(path))[1])
            assert status == 404
            assert_envelope(status, text)


@on_loop
async def test_chat_stream_and_whole_answer_say_the_same_for_every_choice() -> None:
    """One accumulator for both: content, scores, reasons and counts are equal, choice by choice."""
    fields: dict[str, Any] = {"n": 3, "seed": 4, "logprobs": True, "top_logprobs": 2, "stop": "!", "max_tokens": 9}
    async with endpoint(FakeEngine(says("Hé 😀 there!"))) as server:
        whole = await server.chat(**fields)
        *events, usage, done = await server.stream(CHAT, chat_body(**fields, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(piece["delta"].get("content", "") for piece in mine) == choice["message"]["content"]
        entries = [entry for piece in mine for entry in (piece["logprobs"] or {"content": []})["content"]]
        assert entries == choice["logprobs"]["content"]
        assert [piece["finish_reason"] for piece in mine if piece["finish_reason"]] == [choice["finish_reason"]]
        assert mine[-1]["stop_reason"] == choice["stop_reason"]
