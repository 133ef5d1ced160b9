"""The whole answer to a chat: its shape, its counts and its log-probabilities."""

from __future__ import annotations

import pytest

from tests.engine.server.endpoint import MODEL, endpoint, on_loop
from tests.engine.server.fake_engine import FakeEngine, says


@on_loop
async def test_shape_of_the_answer() -> None:
    async with endpoint(FakeEngine(says("Hello."))) as server:
        reply = await server.chat()
        num_prompt = len(server.engine.requests[0].prompt_ids)
    assert reply.pop("id").startswith("chatcmpl-")
    assert isinstance(reply.pop("created"), int)
    assert reply == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello."},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": 7,
            "total_tokens": num_prompt + 7,
            "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0, "image_tokens": 0, "video_tokens": 0},
            "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0},
        },
    }


@on_loop
async def test_ids_are_unique() -> None:
    async with endpoint() as server:
        assert len({(await server.chat())["id"] for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("fields", "content", "reason", "stop_reason", "num_tokens"),
    [
        ({}, "Hello.", "stop", None, 7),
        ({"max_tokens": 2}, "He", "length", None, 2),
        ({"max_tokens": 6}, "Hello.", "length", None, 6),
        ({"stop": "ll"}, "He", "stop", "ll", 4),
        ({"stop": ["o.", "l"]}, "He", "stop", "l", 3),
        ({"stop": "ll", "include_stop_str_in_output": True}, "Hell", "stop", "ll", 4),
        ({"stop_token_ids": [ord("l")]}, "He", "stop", ord("l"), 3),
        ({"stop": ".?"}, "Hello.", "stop", None, 7),
        ({"ignore_eos": True, "max_tokens": 8}, "Hello.He", "length", None, 8),
    ],
)
@on_loop
async def test_endings(
    fields: dict[str, object], content: str, reason: str, stop_reason: object, num_tokens: int
) -> None:
    async with endpoint(FakeEngine(says("Hello."))) as server:
        reply = await server.chat(**fields)
        await server.engine.until_idle()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == content
    assert (choice["finish_reason"], choice["stop_reason"]) == (reason, stop_reason)
    assert reply["usage"]["completion_tokens"] == num_tokens


@on_loop
async def test_stop_string_ends_the_work() -> None:
    engine = FakeEngine(says("Hello, and so on"))
    async with endpoint(engine) as server:
        await server.chat(stop=",")
        await engine.until_idle()
    assert engine.aborted == [1]


@on_loop
async def test_logprobs() -> None:
    async with endpoint(FakeEngine(says("é"))) as server:
        reply = await server.chat(logprobs=True, top_logprobs=2)
    first, second, end = reply["choices"][0]["logprobs"]["content"]
    assert first == {
        "token": "\ufffd",  # half a character
        "logprob": -1.0,
        "bytes": [0xC3],
        "top_logprobs": [
            {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC4]},
            {"token": "\ufffd", "logprob": -1.0, "bytes": [0xC3]},
        ],
    }
    assert bytes(first["bytes"] + second["bytes"]).decode() == reply["choices"][0]["message"]["content"]
    assert (end["token"], end["bytes"]) == ("<|role_end|>", [])
    assert end["top_logprobs"][1]["logprob"] == end["logprob"]


@on_loop
async def test_logprobs_without_alternatives() -> None:
    async with endpoint(FakeEngine(says("ab"))) as server:
        reply = await server.chat(logprobs=True)
    assert [entry["top_logprobs"] for entry in reply["choices"][0]["logprobs"]["content"]] == [[], [], []]
