"""Chats that are spoken: text and audio on one choice, whole and streamed, and what is freed."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from io import BytesIO
from typing import Any

import pytest
import soundfile

from engine.ipc import Failed
from engine.server.spoken import AloudText
from tests.engine.server.endpoint import Endpoint, chat_body, endpoint, on_loop
from tests.engine.server.fake_engine import FakeEngine, says
from tests.engine.server.fake_talker import RATE_HZ, FakeTalker, pcm_of
from tests.waiting import until

ROUTE = "/v1/chat/completions"
BOTH = ["text", "audio"]
USAGE = {"stream_options": {"include_usage": True}}


async def streamed(server: Endpoint, **fields: Any) -> list[Any]:
    return (await server.stream(ROUTE, chat_body(**fields)))[:-1]


def pieces(events: list[Any], field: str) -> list[Any]:
    """One field of `delta.audio` over all chunks that have it."""
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return [delta["audio"][field] for delta in deltas if field in delta.get("audio", {})]


@on_loop
async def test_one_choice_has_text_and_audio() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        reply = await server.chat(modalities=BOTH)
    (choice,) = reply["choices"]
    audio = choice["message"]["audio"]
    assert (choice["message"]["content"], audio["transcript"], choice["finish_reason"]) == ("Hello.", "Hello.", "stop")
    assert audio["expires_at"] == reply["created"] + 86_400
    samples, rate = soundfile.read(BytesIO(b64decode(audio["data"])), dtype="int16")
    assert (rate, samples.tobytes()) == (RATE_HZ, pcm_of("Hello."))
    # Six letters of text and an end token; five of them were spoken.
    assert reply["usage"]["completion_tokens"] == 7 + 5
    assert reply["usage"]["completion_tokens_details"]["audio_tokens"] == 5
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + 12


@on_loop
async def test_audio_alone() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        reply = await server.chat(modalities=["audio"], audio={"format": "pcm", "voice": "DB30"})
        events = await streamed(server, modalities=["audio"], audio={"format": "pcm"})
    message = reply["choices"][0]["message"]
    assert (message["content"], message["audio"]["transcript"]) == (None, "Hello.")
    assert b64decode(message["audio"]["data"]) == pcm_of("Hello.")
    assert [event["choices"][0]["delta"].get("content", "") for event in events] == [""] * len(events)
    assert "".join(pieces(events, "transcript")) == "Hello."


@pytest.mark.parametrize("modalities", [BOTH, ["audio"]])
@on_loop
async def test_a_stream_has_the_scores_of_the_whole_answer(modalities: list[str]) -> None:
    """Those of tokens without text, too, which the end token is."""
    fields: dict[str, Any] = {"modalities": modalities, "logprobs": True}
    async with endpoint(talker=FakeTalker()) as server:
        whole = (await server.chat(**fields))["choices"][0]["logprobs"]["content"]
        events = await streamed(server, **fields)
    scores = [event["choices"][0]["logprobs"] or {"content": []} for event in events]
    assert [entry for score in scores for entry in score["content"]] == whole
    assert len(whole) == len("Hello.") + 1


@pytest.mark.parametrize(("fmt", "rate"), [("pcm16", RATE_HZ), ("wav", RATE_HZ), ("opus", 48_000)])
@on_loop
async def test_a_whole_answer_tells_the_rate_of_its_speech(fmt: str, rate: int) -> None:
    async with endpoint(talker=FakeTalker()) as server:
        body = chat_body(modalities=BOTH, audio={"format": fmt})
        async with server.session.post(server.url + ROUTE, json=body) as response:
            assert response.headers["X-Audio-Sample-Rate"] == str(rate)
        async with server.session.post(server.url + ROUTE, json=chat_body()) as response:
            assert "X-Audio-Sample-Rate" not in response.headers


@on_loop
async def test_text_is_the_default_and_costs_no_speech() -> None:
    talker = FakeTalker()
    async with endpoint(talker=talker) as server:
        reply = await server.chat()
        await server.chat(modalities=["text"])
    assert "audio" not in reply["choices"][0]["message"]
    assert talker.requests == []


@on_loop
async def test_stream() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        body = chat_body(modalities=BOTH, stream=True)
        async with server.session.post(server.url + ROUTE, json=body) as response:
            assert response.headers["X-Audio-Sample-Rate"] == str(RATE_HZ)
        events = await streamed(server, modalities=BOTH, **USAGE)
    *events, counts = events
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello."
    assert "".join(pieces(events, "transcript")) == "Hello."
    data = [b64decode(piece) for piece in pieces(events, "data")]
    assert b"".join(data) == pcm_of("Hello.")
    assert all(len(piece) % 2 == 0 for piece in data)
    assert len(set(pieces(events, "id"))) == 1
    assert not any("content" in delta for delta in deltas if "audio" in delta)
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * (len(events) - 1) + ["stop"]
    assert deltas[-1]["audio"]["expires_at"] == events[0]["created"] + 86_400
    assert counts["choices"] == []
    assert counts["usage"]["completion_tokens_details"]["audio_tokens"] == 5


@on_loop
async def test_speech_begins_while_the_text_is_written() -> None:
    engine, talker = FakeEngine(hold_after=3), FakeTalker()
    async with endpoint(engine, talker=talker) as server:
        body = chat_body(modalities=BOTH, stream=True)
        async with server.session.post(server.url + ROUTE, json=body) as response:
            read = b""
            while read.count(b'"data"') < 3:
                read += await response.content.readany()
            assert engine.num_running == 1
            engine.gate.set()
            assert (read + await response.read()).endswith(b"data: [DONE]\n\n")
    assert "".join(talker.said) == "Hello."


@on_loop
async def test_a_thought_is_not_spoken() -> None:
    async with endpoint(FakeEngine(says("<think>Hm, no.</think>Yes")), talker=FakeTalker()) as server:
        reply = await server.chat(modalities=BOTH, audio={"format": "pcm16"})
    assert reply["choices"][0]["message"]["content"] == "<think>Hm, no.</think>Yes"
    assert b64decode(reply["choices"][0]["message"]["audio"]["data"]) == pcm_of("Yes")


@pytest.mark.parametrize(
    ("text", "aloud"),
    [
        ("Hi <think>", "Hi <think>"),
        (" \n<think>a</think> b", " b"),
        ("<thin", "<thin"),
        ("<think>never ends", ""),
        ("", ""),
        ("<b>", "<b>"),
    ],
)
def test_what_is_meant_for_the_ear_does_not_depend_on_the_pieces(text: str, aloud: str) -> None:
    whole, letters = AloudText(), AloudText()
    assert whole.push(text, last=True) == aloud
    assert "".join(letters.push(char, last=False) for char in text) + letters.push("", last=True) == aloud


@on_loop
async def test_nothing_to_say_is_an_empty_file() -> None:
    async with endpoint(FakeEngine(says("...")), talker=FakeTalker()) as server:
        reply = await server.chat(modalities=BOTH)
    message = reply["choices"][0]["message"]
    assert message["content"] == "..."
    assert len(b64decode(message["audio"]["data"])) == 44


@on_loop
async def test_seed_and_voice_reach_the_talker() -> None:
    talker = FakeTalker()
    async with endpoint(talker=talker) as server:
        await server.chat(modalities=BOTH, seed=5, audio={"voice": "lingguang"})
        await server.chat(modalities=BOTH, speaker="DB30")
    assert (talker.requests[0].seed, talker.requests[0].voice) == (5, "lingguang")
    assert talker.requests[1].voice == "DB30"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "nobody"}}, "audio.voice"),
        ({"audio": {"format": "aac"}}, "audio.format"),
        ({"audio": {"format": "wav"}, "stream": True}, "audio.format"),
        ({"audio": {"instructions": "sadly"}}, "audio.instructions"),  # known, so never ignored
        ({"audio": {"ref_audio": "data:audio/wav;base64,AAAA"}}, "audio.ref_audio"),
        ({"n": 2}, "n"),
    ],
)
@on_loop
async def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine()
    async with endpoint(engine, talker=FakeTalker()) as server:
        status, error = await server.refused(ROUTE, chat_body(modalities=BOTH) | fields)
    assert (status, error["param"]) == (400, param)
    assert engine.requests == []


@on_loop
async def test_a_server_without_talker_says_so() -> None:
    async with endpoint() as server:
        status, error = await server.refused(ROUTE, chat_body(modalities=BOTH))
    assert (status, error["param"], error["code"]) == (400, "modalities", "unsupported_parameter")


@pytest.mark.parametrize("stream", [True, False])
@on_loop
async def test_a_client_that_leaves_in_mid_speech_frees_both(stream: bool) -> None:
    engine, talker = FakeEngine(), FakeTalker(hold_after=3)
    async with endpoint(engine, talker=talker) as server:
        post = asyncio.create_task((streamed if stream else Endpoint.chat)(server, modalities=BOTH))
        await until(lambda: talker.num_open == 1 and engine.num_running == 0 and engine.requests)
        post.cancel()
        await until(lambda: talker.num_open == 0)
        assert talker.aborted == [1]
        talker.gate.set()
        assert (await server.chat(modalities=BOTH))["choices"][0]["message"]["audio"]["transcript"] == "Hello."


@on_loop
async def test_a_client_that_leaves_while_text_is_written_frees_both() -> None:
    engine, talker = FakeEngine(hold_after=2), FakeTalker()
    async with endpoint(engine, talker=talker) as server:
        post = asyncio.create_task(server.chat(modalities=BOTH))
        await until(lambda: talker.num_open == 1 and engine.num_running == 1)
        post.cancel()
        await until(lambda: talker.num_open == engine.num_running == 0)


@on_loop
async def test_a_talker_that_dies_ends_the_stream_with_an_error() -> None:
    talker = FakeTalker(hold_after=2)
    async with endpoint(talker=talker) as server:
        post = asyncio.create_task(server.stream(ROUTE, chat_body(modalities=BOTH)))
        await until(lambda: "".join(talker.said) == "Hello.")
        talker.handle.receive(Failed("out of memory"))
        *_, error, done = await post
        assert (error["error"]["code"], done) == ("engine_failed", "[DONE]")
        assert server.engine.num_running == 0
