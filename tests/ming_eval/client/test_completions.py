"""Raw prompts through `/v1/completions`: what goes out and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ming_eval.client import Client, Exchange
from ming_eval.client.wire import WireError, decode_chunk, decode_reply, encode
from ming_eval.errors import DataError
from ming_eval.metrics import latency
from ming_eval.targets import DIALECTS, Target
from ming_eval.types import Event, EventKind, Failure, Media, Message, Request, Task, Text, TokenSource, Usage
from tests.fakes import FakeServer, Fault, Script
from tests.ming_eval.client.helpers import run

IDS = (7, 0, 156_890)
VLLM = DIALECTS["vllm"].for_completions()


def raw(**options: Any) -> Request:
    return Request(id="r", messages=(), prompt_ids=IDS, max_tokens=4, **options)


def body(request: Request, dialect: str = "vllm") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(request, "m", DIALECTS[dialect].for_completions()))
    return found


def test_ids_are_the_whole_prompt_and_nothing_of_a_chat_is_sent() -> None:
    assert body(raw(temperature=1.0, seed=3, ignore_eos=True, extra={"top_k": 5})) == {
        "model": "m",
        "prompt": list(IDS),
        "max_tokens": 4,
        "temperature": 1.0,
        "seed": 3,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_k": 5,
    }
    assert "ignore_eos" not in body(raw(ignore_eos=True), "openai")


def test_text_goes_as_it_is() -> None:
    text = Request(id="r", messages=(Message("user", (Text("The sky "), Text("is"))),))
    assert body(text)["prompt"] == "The sky is"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(id="r", messages=(Message("user", (Media("image", b"x", "image/png"),)),)), "text alone"),
        (Request(id="r", messages=(Message("system", (Text("a"),)), Message("user", (Text("b"),)))), "no history"),
        (Request(id="r", messages=(Message("user", (Text("b"),)),), task=Task.T2S), "speech in a chat"),
    ],
)
def test_what_has_no_place_in_a_raw_prompt(request_: Request, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(request_, "m", VLLM)


def test_a_chat_has_no_place_for_ids() -> None:
    with pytest.raises(DataError, match="no token ids"):
        encode(raw(), "m", DIALECTS["vllm"])


def test_chunks_and_whole_replies_have_one_form() -> None:
    def chunk(text: str, finish: str | None = None, **fields: Any) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return json.dumps({"object": "text_completion", "choices": [choice]} | fields).encode()

    assert decode_chunk(chunk("é"), 1.0, VLLM) == [Event(EventKind.TEXT, 1.0, "é")]
    assert decode_chunk(chunk(""), 1.0, VLLM) == []
    end = [Event(EventKind.TEXT, 2.0, "!"), Event(EventKind.FINISH, 2.0, "length")]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
    counted = Event(EventKind.USAGE, 2.0, usage=Usage(3, 4, 2))
    assert decode_chunk(chunk("!", "length"), 2.0, VLLM) == end
    assert decode_reply(chunk("!", "length", usage=usage), 2.0, VLLM) == [*end, counted]
    (error,) = decode_chunk(b'{"error": {"message": "out of memory"}}', 2.0, VLLM)
    assert (error.kind, error.text) == (EventKind.ERROR, "out of memory")
    with pytest.raises(WireError):
        decode_chunk(b'{"choices": [{"text": 5}]}', 2.0, VLLM)
    said_in_a_chat = json.dumps({"choices": [{"delta": {"content": "x"}}]}).encode()
    assert decode_chunk(said_in_a_chat, 2.0, VLLM) == []


def test_stream_of_llama_server_as_it_came() -> None:
    """llama.cpp in xllamacpp 2026.10.11549: usage stands on the chunk with the finish reason."""
    pieces = (
        b'{"choices":[{"text":"leep","index":0,"logprobs":null,"finish_reason":null}],"created":1795682662,'
        b'"model":"tiny.gguf","system_fingerprint":"b0-unknown","object":"text_completion","id":"chatcmpl-VXxN"}',
        b'{"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"created":1795682662,'
        b'"model":"tiny.gguf","system_fingerprint":"b0-unknown","object":"text_completion","usage":'
        b'{"completion_tokens":3,"prompt_tokens":3,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0}},'
        b'"id":"chatcmpl-VXxN","timings":{"cache_n":0,"prompt_n":3,"prompt_ms":0.699,"predicted_n":3}}',
    )
    found = [event for piece in pieces for event in decode_chunk(piece, 1.0, DIALECTS["llamacpp"].for_completions())]
    usage = Usage(3, 3, 0)
    assert [event.kind for event in found] == [EventKind.TEXT, EventKind.FINISH, EventKind.USAGE]
    assert (found[0].text, found[1].text, found[2].usage) == ("leep", "length", usage)


def exchange_with(script: Script, request: Request) -> Exchange:
    async def play() -> Exchange:
        async with FakeServer(script) as server:
            target = Target.at(server.url, model="m", dialect="vllm").for_completions()
            async with Client(target, connections=1) as client:
                return await client.send(request)

    return run(play())


@pytest.mark.parametrize("stream", [True, False])
def test_through_http(stream: bool) -> None:
    exchange = exchange_with(Script(prompt_tokens=3, finish_reason="length"), raw(stream=stream))
    record = latency.make_record(exchange, index=0, concurrency=1, warmup=False, zero_s=0.0)
    assert record.failure is None
    assert (record.num_prompt_tokens, record.num_output_tokens, record.token_source) == (3, 4, TokenSource.USAGE)
    assert (len(record.output_times_s), record.finish_reason) == (4 if stream else 1, "length")
    assert latency.reply_of(exchange, record).text == "w0 w1 w2 w3 "


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (Fault.HTTP_400, Failure.HTTP_4XX),
        (Fault.CLEAN_EOF, Failure.EARLY_EOF),
        (Fault.INBAND_ERROR, Failure.INBAND_ERROR),
        (Fault.MALFORMED, Failure.MALFORMED),
        (Fault.EMPTY, Failure.EMPTY),
    ],
)
def test_failures_are_those_of_chats(fault: Fault, failure: Failure) -> None:
    assert exchange_with(Script(fault=fault, fault_at=2), raw()).failure is failure
