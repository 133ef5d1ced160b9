"""Replies of other servers through the real client or the codec: as they came, or written from documentation."""

from __future__ import annotations

import json
from base64 import b64encode
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import pytest

from ming_eval.client import Client, Exchange
from ming_eval.client.wire import content_type, decode_chunk, decode_reply, encode
from ming_eval.errors import DataError
from ming_eval.metrics import latency
from ming_eval.metrics.audio import audio_pieces, audio_s
from ming_eval.targets import DIALECTS, Target
from ming_eval.types import Event, EventKind, Failure, Media, Message, Request, Task, Text, TokenSource, Usage
from tests.fakes import FakeServer, Script
from tests.ming_eval.client.helpers import run

NATIVE = DIALECTS["mstar-native"]
IMAGE = Media("image", b"\x89PNG\r\n--", "image/png")


def ask(*parts: Text | Media, **options: Any) -> Request:
    return Request(id="r", messages=(Message("user", parts or (Text("hi"),)),), **options)


def form_of(request: Request) -> dict[str, Any]:
    """The form as another parser reads it; files as (file name, type, content)."""
    head = f"Content-Type: {content_type(NATIVE)}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + encode(request, "m", NATIVE))
    fields: dict[str, Any] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        file = part.get_filename()
        fields[str(name)] = content.decode() if file is None else (file, part.get_content_type(), content)
    return fields


def line(modality: str, data: bytes, **metadata: Any) -> bytes:
    return json.dumps({"modality": modality, "data": b64encode(data).decode(), "metadata": metadata}).encode() + b"\n"


def generate(*pieces: bytes, request: Request | None = None) -> Exchange:
    async def play() -> Exchange:
        async with FakeServer(generates=pieces) as server:
            target = Target.at(server.url + "/generate", dialect="mstar-native")
            async with Client(target, connections=1) as client:
                exchange = await client.send(request or ask())
            assert server.seen[0].path == "/generate"
            return exchange

    return run(play())


# --- M*, its own route ---


def test_form_of_mstar() -> None:
    form = form_of(ask(IMAGE, Text("what?"), max_tokens=9, seed=3))
    options = json.loads(form.pop("model_kwargs"))
    assert options == {"max_output_tokens": 9, "temperature": 0.0}
    image = ("image0.png", "image/png", IMAGE.data)
    assert form == {"text": "what?", "output_modalities": "text", "streaming": "true", "files": image}


def test_form_that_asks_for_speech() -> None:
    form = form_of(ask(task=Task.T2S, voice="lin", stream=False, extra={"top_p": 0.5}))
    assert (form["output_modalities"], form["streaming"]) == ("text,audio", "false")
    assert json.loads(form["model_kwargs"]) == {"temperature": 0.0, "voice": "lin", "top_p": 0.5}


def test_form_has_no_place_for_a_conversation() -> None:
    with pytest.raises(DataError, match="history"):
        encode(Request(id="r", messages=(Message("system", (Text("a"),)), Message("user", ()))), None, NATIVE)


def test_lines_of_mstar_end_with_the_body() -> None:
    exchange = generate(line("text", b"Hel"), line("text", b"lo"))
    assert (exchange.failure, exchange.http_status) == (None, 200)
    record = latency.make_record(exchange, index=0, concurrency=1, warmup=False, zero_s=0.0)
    assert (record.num_output_tokens, record.token_source, record.finish_reason) == (2, TokenSource.EVENTS, None)
    assert latency.reply_of(exchange, record).text == "Hello"


def test_lines_may_be_cut_anywhere() -> None:
    whole = line("text", "né".encode()) + line("text", b"x")
    exchange = generate(*(whole[i : i + 1] for i in range(len(whole))))
    assert [event.text for event in exchange.events] == ["né", "x"]


def test_speech_of_mstar_has_its_rate_in_the_metadata() -> None:
    pieces = [line("text", b"Hi"), *(line("audio", bytes(4_800), sample_rate=24_000) for _ in range(3))]
    exchange = generate(*pieces, request=ask(task=Task.T2S))
    assert exchange.failure is None
    assert audio_s(audio_pieces(exchange.events)) == pytest.approx(0.3)


def test_whole_reply_of_mstar() -> None:
    outputs = {"text": [{"data": b64encode(b"Hello").decode(), "metadata": {}}]}
    body = json.dumps({"request_id": "1", "outputs": outputs}).encode()
    assert decode_reply(body, 2.0, NATIVE) == [Event(EventKind.TEXT, 2.0, "Hello")]


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        ((b'{"error": "out of memory"}\n',), Failure.INBAND_ERROR),
        ((line("text", b"a"), b'{"modality": "text", "data": "?"}\n'), Failure.MALFORMED),
        ((line("text", b"a"), b"Internal Server Error\n"), Failure.MALFORMED),
        ((line("text", b""),), Failure.EMPTY),
    ],
)
def test_what_goes_wrong_in_lines_of_mstar(pieces: tuple[bytes, ...], failure: Failure) -> None:
    assert generate(*pieces).failure is failure


def test_speech_that_mstar_did_not_send_is_a_failure() -> None:
    assert generate(line("text", b"Hi"), request=ask(task=Task.T2S)).failure is Failure.EMPTY


# --- the OpenAI routes of others ---


def events(dialect: str, *chunks: dict[str, Any]) -> list[Event]:
    return [event for chunk in chunks for event in decode_chunk(json.dumps(chunk).encode(), 1.0, DIALECTS[dialect])]


def received(dialect: str, *chunks: bytes) -> list[Event]:
    return [event for chunk in chunks for event in decode_chunk(chunk, 1.0, DIALECTS[dialect])]


def test_mstar_counts_no_tokens_on_its_openai_routes() -> None:
    """Usage all zero, a new audio id in every chunk: tokens are counted by events, never taken for none."""
    none = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    found = events(
        "mstar",
        {"choices": [{"index": 0, "delta": {"content": "Hel"}}], "usage": none},
        {"choices": [{"index": 0, "delta": {"content": "lo"}}]},
        {"choices": [{"index": 0, "delta": {"audio": {"id": "audio-1", "data": "AAA="}}}]},
        {"choices": [{"index": 0, "delta": {"audio": {"id": "audio-2", "data": "AAA="}}, "finish_reason": "stop"}]},
    )
    assert [event.kind.value for event in found] == ["text", "usage", "text", "audio", "audio", "finish"]
    count = latency.count_tokens(found)
    assert (count.total, count.source) == (2, TokenSource.EVENTS)


def test_sglang_omni_has_usage_on_its_finish_chunk_and_takes_no_notice_of_ignore_eos() -> None:
    """sglang-omni 0.1.9 by its source; media it takes inline, and earlier ones took as files on its host alone."""
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    found = events(
        "sglang-omni",
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}], "usage": usage},
    )
    assert latency.count_tokens(found).total == 2
    sent = json.loads(encode(ask(IMAGE, ignore_eos=True), "m", DIALECTS["sglang-omni"]))
    assert sent["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert "ignore_eos" not in sent


def test_stream_of_vllm_as_it_came() -> None:
    """vLLM 0.32.0: an empty delta is a token whose characters are not complete yet, the last one finishes."""
    head = b'{"id":"chatcmpl-91d1","object":"chat.completion.chunk","created":1795670381,"model":"tiny","choices":'
    found = received(
        "vllm",
        head + b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        b'"prompt_token_ids":null,"prompt_text":null}',
        head + b'[{"index":0,"delta":{"content":" k"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
        head + b'[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
        head + b'[{"index":0,"delta":{"reasoning":" hm"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
        head + b'[{"index":0,"delta":{"content":"\xef\xbf\xbd5"},"logprobs":null,"finish_reason":"length",'
        b'"stop_reason":null,"token_ids":null}]}',
        head + b'[],"usage":{"prompt_tokens":24,"total_tokens":28,"completion_tokens":4},'
        b'"system_fingerprint":"vllm-0.32.0-bc8b81d3"}',
    )
    assert [event.kind.value for event in found] == ["role", "text", "reasoning", "text", "finish", "usage"]
    assert found[-1].usage == Usage(24, 4)
    assert latency.count_tokens(found).per_event == (1, 1, 2)


def test_vllm_with_every_extra_it_can_be_started_with() -> None:
    """vLLM 0.32.0 with prompt token details, a reasoning parser, and log-probabilities and usage asked for."""
    found = received(
        "vllm",
        b'{"choices":[{"index":0,"delta":{"reasoning":" f"},"logprobs":{"content":[{"token":" f","logprob":-2.6155,'
        b'"bytes":[32,102],"top_logprobs":[{"token":" f","logprob":-2.6155,"bytes":[32,102]},{"token":" was",'
        b'"logprob":-1.053,"bytes":[32,119,97,115]}]}]},"finish_reason":null,"token_ids":null}],"usage":'
        b'{"prompt_tokens":24,"total_tokens":25,"completion_tokens":1,"completion_tokens_details":'
        b'{"reasoning_tokens":1}}}',
        b'{"choices":[],"usage":{"prompt_tokens":24,"total_tokens":48,"completion_tokens":24,"prompt_tokens_details":'
        b'{"cached_tokens":16,"created_cache_tokens":0},"completion_tokens_details":{"reasoning_tokens":20}}}',
    )
    assert [event.kind.value for event in found] == ["reasoning", "logprobs", "usage", "usage"]
    assert found[1].logprobs[0].top == ((" f", -2.6155), (" was", -1.053))
    assert found[-1].usage == Usage(24, 24, 16)


def test_vllm_that_is_full_says_so_in_the_stream_or_before_it() -> None:
    """vLLM 0.32.0 with --max-num-queued-reqs: HTTP 503, or HTTP 200 and this, for a request that queued too late."""
    busy = b"The engine is currently busy and cannot accept new requests."
    (error,) = received(
        "vllm", b'{"error":{"message":"' + busy + b'","type":"Service Unavailable","param":null,"code":503}}'
    )
    assert (error.kind, error.text) == (EventKind.ERROR, busy.decode())


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({"format": "pcm", "sample_rate_hz": 24_000, "frame_count": 2400, "channels": 1}, 0.1),
        ({"format": "flac", "sample_rate_hz": 24_000, "frame_count": 9000, "channels": 1}, None),
        ({"format": "pcm", "sample_rate_hz": 0}, None),
    ],
)
def test_vllm_omni_states_the_rate_of_files_too(metadata: dict[str, object], seconds: float | None) -> None:
    """vLLM-omni 0.30.0 by its source: `audio_metadata` describes the waveform before it was encoded."""
    data = bytes(4800) if metadata["format"] == "pcm" else b"fLaC" + bytes(4796)
    choice = {"index": 0, "delta": {"content": b64encode(data).decode()}, "audio_metadata": metadata}
    found = events("vllm", {"modality": "audio", "choices": [choice]})
    assert audio_s(audio_pieces(found)) == (None if seconds is None else pytest.approx(seconds))


def test_llama_server_reasons_before_it_answers() -> None:
    found = events(
        "llamacpp",
        {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]},
    )
    assert [event.kind.value for event in found] == ["reasoning", "text"]


def test_stream_of_llama_server_as_it_came() -> None:
    """llama.cpp in xllamacpp 2026.10.11549: a role with null content, usage and timings on a chunk of their own."""
    found = received(
        "llamacpp",
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
        b'"created":1795660926,"id":"chatcmpl-b1eL","model":"tiny.gguf","system_fingerprint":"b0-unknown",'
        b'"object":"chat.completion.chunk"}',
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"cor"}}],"created":1795660926,'
        b'"id":"chatcmpl-b1eL","model":"tiny.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}',
        b'{"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1795660926,"id":"chatcmpl-b1eL",'
        b'"model":"tiny.gguf","system_fingerprint":"b0-unknown","object":"chat.completion.chunk"}',
        b'{"choices":[],"created":1795660926,"id":"chatcmpl-b1eL","model":"tiny.gguf","system_fingerprint":'
        b'"b0-unknown","object":"chat.completion.chunk","usage":{"completion_tokens":4,"prompt_tokens":14,'
        b'"total_tokens":18,"prompt_tokens_details":{"cached_tokens":0}},"timings":{"cache_n":0,"prompt_n":14,'
        b'"prompt_ms":0.822,"prompt_per_token_ms":0.05871428571428571,"predicted_n":4,"predicted_ms":0.754}}',
    )
    assert [event.kind.value for event in found] == ["role", "text", "finish", "usage"]
    assert found[-1].usage == Usage(14, 4, 0)
    assert latency.count_tokens(found).source is TokenSource.USAGE


def test_llama_server_closes_the_connection_behind_a_stream_that_says_it_is_kept() -> None:
    """Without a new connection for each request, half of them go into one that is closed instead of answered."""

    async def play(dialect: str, *headers: tuple[str, str]) -> list[Exchange]:
        async with FakeServer(Script(close_after=True)) as server:
            target = Target.at(server.url, model="m", dialect=dialect, headers=headers)
            async with Client(target, connections=1) as client:
                exchanges = [await client.send(ask()) for _ in range(4)]
            if dialect == "llamacpp":
                assert {chat.headers["connection"] for chat in server.chats} == {"close"}
            return exchanges

    assert [each.failure for each in run(play("llamacpp"))] == [None] * 4
    assert [each.failure for each in run(play("openai", ("Connection", "close")))] == [None] * 4
    kept = run(play("openai"))
    assert [each.failure for each in kept] == [None, Failure.EARLY_EOF, None, Failure.EARLY_EOF]
    assert "Connection: close" in str(kept[1].error)


def test_stream_of_transformers_serve_as_it_came() -> None:
    """transformers 5.23.0: usage rides on the finish chunk whether asked for or not, and no [DONE] follows."""
    found = received(
        "transformers",
        b'{"id":"7f032d5a","choices":[{"delta":{"role":"assistant"},"index":0}],"created":1795660913,'
        b'"model":"/models/tiny@main","object":"chat.completion.chunk","system_fingerprint":""}',
        b'{"id":"7f032d5a","choices":[{"delta":{"content":"cor"},"index":0}],"created":1795660913,'
        b'"model":"/models/tiny@main","object":"chat.completion.chunk","system_fingerprint":""}',
        b'{"id":"7f032d5a","choices":[{"delta":{},"index":0,"finish_reason":"length"}],"created":1795660913,'
        b'"model":"/models/tiny@main","object":"chat.completion.chunk","system_fingerprint":"",'
        b'"usage":{"completion_tokens":6,"prompt_tokens":14,"total_tokens":20}}',
    )
    assert [event.kind.value for event in found] == ["role", "text", "finish", "usage"]
    assert found[-1].usage == Usage(14, 6)


def test_transformers_serve_fixes_lengths_by_a_configuration_in_which_no_token_ends_an_answer() -> None:
    """It refuses fields that it does not know, `ignore_eos` among them: HTTP 422."""
    sent = json.loads(encode(ask(max_tokens=5, ignore_eos=True), "m", DIALECTS["transformers"]))
    assert sent["max_tokens"] == 5
    assert "ignore_eos" not in sent
    assert json.loads(sent["generation_config"]) == {"eos_token_id": -1}
    assert "generation_config" not in json.loads(encode(ask(max_tokens=5), "m", DIALECTS["transformers"]))
