"""Order and form of streams, and that they carry exactly what a whole answer does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.server.endpoint import MODEL, chat_body, endpoint, on_loop
from tests.engine.server.fake_engine import FakeEngine, says

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def choice_of(event: dict[str, Any]) -> dict[str, Any]:
    (choice,) = event["choices"]
    return choice


@on_loop
async def test_chat_stream_is_role_content_finish_done() -> None:
    async with endpoint(FakeEngine(says("Hey"))) as server:
        *events, done = await server.stream(CHAT, chat_body())
    assert done == "[DONE]"
    assert [choice_of(event)["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "e"},
        {"content": "y"},
        {},
    ]
    assert [choice_of(event)["finish_reason"] for event in events] == [None] * 4 + ["stop"]
    assert all(choice_of(event)["logprobs"] is None for event in events)
    assert "stop_reason" in choice_of(events[-1])
    assert choice_of(events[-1])["stop_reason"] is None


@on_loop
async def test_head_of_all_events_is_the_same() -> None:
    async with endpoint() as server:
        *events, _ = await server.stream(CHAT, chat_body(stream_options={"include_usage": True}))
    heads = {(event["id"], event["object"], event["created"], event["model"]) for event in events}
    assert len(heads) == 1
    ((reply_id, kind, _, model),) = heads
    assert reply_id.startswith("chatcmpl-")
    assert (kind, model) == ("chat.completion.chunk", MODEL)


@on_loop
async def test_stream_headers() -> None:
    async with (
        endpoint() as server,
        server.session.post(server.url + CHAT, json=chat_body(stream=True)) as response,
    ):
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Transfer-Encoding"] == "chunked"


@on_loop
async def test_last_content_rides_on_the_finish_chunk() -> None:
    async with endpoint(FakeEngine(says("Hello"))) as server:
        *events, _ = await server.stream(CHAT, chat_body(max_tokens=2))
    assert choice_of(events[-1])["delta"] == {"content": "e"}
    assert choice_of(events[-1])["finish_reason"] == "length"


@on_loop
async def test_nothing_is_sent_before_the_first_token() -> None:
    """Headers and role chunk wait for the first token, then arrive with it in one piece."""
    engine = FakeEngine(says("Hey"), hold_after=0)
    async with endpoint(engine) as server:
        post = server.session.post(server.url + CHAT, json=chat_body(stream=True, max_tokens=1))
        pending = asyncio.ensure_future(post)
        await engine.until_running()
        await asyncio.sleep(0.05)
        assert not pending.done()
        engine.gate.set()
        async with await pending as response:
            first = await response.content.readany()
    assert first.count(b"data: ") >= 2
    assert b'"role":"assistant"' in first
    assert b'"content":"H"' in first


@on_loop
async def test_usage_chunk_is_last_and_the_only_one_with_usage() -> None:
    async with endpoint(FakeEngine(says("Hey"))) as server:
        *events, usage, _ = await server.stream(CHAT, chat_body(stream_options={"include_usage": True}))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4  # three letters and the end token
    assert usage["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert all("usage" not in event for event in events)


@on_loop
async def test_continuous_usage_counts_up_in_every_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with endpoint(FakeEngine(says("Hey"))) as server:
        *events, usage, _ = await server.stream(CHAT, chat_body(stream_options=options))
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 1, 2, 3, 4]
    assert usage["choices"] == []


@on_loop
async def test_no_content_chunk_is_empty_while_a_character_is_incomplete() -> None:
    """A four-byte character comes as four tokens and one chunk."""
    async with endpoint(FakeEngine(says("a😀b"))) as server:
        *events, _ = await server.stream(CHAT, chat_body())
    contents = [choice_of(event)["delta"].get("content") for event in events]
    assert contents == ["", "a", "😀", "b", None]


@on_loop
async def test_broken_character_at_the_end_is_replaced_in_both_forms() -> None:
    async with endpoint(FakeEngine(says("né"))) as server:
        *events, _ = await server.stream(CHAT, chat_body(max_tokens=2))
        whole = await server.chat(max_tokens=2)
    assert "".join(choice_of(event)["delta"].get("content", "") for event in events) == "n\ufffd"
    assert whole["choices"][0]["message"]["content"] == "n\ufffd"


@on_loop
async def test_choices_interleave_each_with_its_index() -> None:
    async with endpoint(FakeEngine(says("Hey"))) as server:
        *events, _ = await server.stream(CHAT, chat_body(n=3))
    by_index: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        by_index.setdefault(choice_of(event)["index"], []).append(choice_of(event))
    assert sorted(by_index) == [0, 1, 2]
    for choices in by_index.values():
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hey"
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    order = [choice_of(event)["index"] for event in events]
    assert order != sorted(order)


@on_loop
async def test_completion_stream_has_text_and_no_role() -> None:
    async with endpoint(FakeEngine(says("Hey"))) as server:
        *events, done = await server.stream(COMPLETIONS, {"prompt": "x", "max_tokens": 9})
    assert done == "[DONE]"
    assert [choice_of(event)["text"] for event in events] == ["H", "e", "y", ""]
    assert [choice_of(event)["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert {event["object"] for event in events} == {"text_completion"}
    assert events[0]["id"].startswith("cmpl-")


@on_loop
async def test_completion_stream_with_token_ids() -> None:
    async with endpoint(FakeEngine(says("é"))) as server:
        *events, _ = await server.stream(COMPLETIONS, {"prompt": [1], "max_tokens": 2, "return_token_ids": True})
    assert [(choice_of(event)["text"], choice_of(event)["token_ids"]) for event in events] == [
        ("", [0xC3]),
        ("é", [0xA9]),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 7},
        {"stop": ["lo"]},
        {"stop": "world", "include_stop_str_in_output": True},
        {"stop": ["never", "wor"], "n": 2},
        {"stop_token_ids": [ord("w")]},
        {"logprobs": True, "top_logprobs": 2, "stop": "rl"},
    ],
)
@on_loop
async def test_stream_joined_is_the_whole_answer(fields: dict[str, Any]) -> None:
    async with endpoint(FakeEngine(says("Hello, wörld 😀!"))) as server:
        body = chat_body(stream_options={"include_usage": True}, **fields)
        *events, usage, _ = await server.stream(CHAT, body)
        whole = await server.chat(**fields)
    for expected in whole["choices"]:
        mine = [choice for event in events for choice in event["choices"] if choice["index"] == expected["index"]]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == expected["message"]["content"]
        assert mine[-1]["finish_reason"] == expected["finish_reason"]
        assert mine[-1]["stop_reason"] == expected["stop_reason"]
        entries = [entry for choice in mine for entry in (choice["logprobs"] or {"content": []})["content"]]
        assert entries == (expected["logprobs"] or {"content": []})["content"]
    assert usage["usage"] == whole["usage"]


@on_loop
async def test_quiet_stream_gets_comments_after_its_first_event_and_none_after_its_last() -> None:
    engine = FakeEngine(says("ab"), hold_after=1)
    async with endpoint(engine, sse_ping_s=0.02) as server:
        body = chat_body(stream=True)
        async with server.session.post(server.url + "/v1/chat/completions", json=body) as response:
            lines = [await response.content.readline() for _ in range(8)]
            engine.gate.set()
            rest = await response.read()
    assert lines[0].startswith(b"data: ")  # role and first token, then silence
    assert lines[4:] == [b": ping\n", b"\n"] * 2
    assert rest.endswith(b"data: [DONE]\n\n")


@on_loop
async def test_no_comment_before_the_first_event_nor_unless_asked_for() -> None:
    for ping_s, hold_after in ((0.01, 0), (0.0, 1)):
        engine = FakeEngine(says("ab"), hold_after=hold_after)
        async with endpoint(engine, sse_ping_s=ping_s) as server:
            asyncio.get_running_loop().call_later(0.1, engine.gate.set)
            async with server.session.post(
                server.url + "/v1/chat/completions", json=chat_body(stream=True)
            ) as response:
                text = await response.read()
        assert text.startswith(b"data: ")
        assert ping_s or b": ping" not in text
