"""The chat API on the wire, in both directions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.client.wire import WireError, decode_chunk, decode_reply, encode, error_text
from ming_eval.errors import DataError
from ming_eval.metrics import latency
from ming_eval.metrics.audio import audio_pieces, audio_s
from ming_eval.targets import DIALECTS
from ming_eval.types import Event, EventKind, Media, Message, Request, Task, Text, TokenSource, Usage

OPENAI, MING, VLLM, SGLANG = (DIALECTS[name] for name in ("openai", "ming", "vllm", "sglang"))
WAV = b"RIFF\x00\x00"


def ask(*parts: Text | Media, **options: Any) -> Request:
    return Request(id="r1", messages=(Message("user", parts or (Text("hi"),)),), **options)


def body(request: Request, dialect: str = "openai", model: str | None = "m") -> dict[str, Any]:
    return json.loads(encode(request, model, DIALECTS[dialect]))


# --- encode ---


def test_plain_question() -> None:
    assert body(ask(max_tokens=64, seed=7)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 64,
        "temperature": 0.0,
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_is_not_given_is_not_sent() -> None:
    sent = body(ask(temperature=None, stream=False), model=None)
    assert sent == {"messages": [{"role": "user", "content": "hi"}], "stream": False}


def test_text_parts_are_one_string() -> None:
    messages = (Message("system", (Text("Be brief."),)), Message("user", (Text("a "), Text("b"))))
    sent = body(Request(id="r", messages=messages))["messages"]
    assert sent == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a b"}]


def test_media_parts_keep_their_order() -> None:
    image, video = Media("image", b"\x89PNG", "image/png"), Media("video", b"\x00\x01", "video/mp4")
    sent = body(ask(image, Text("what?"), video))["messages"][0]["content"]
    assert sent == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "text", "text": "what?"},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAE="}},
    ]


def test_audio_is_spelled_as_the_dialect_has_it() -> None:
    request = ask(Media("audio", WAV, "audio/wav"))
    inline = {"type": "input_audio", "input_audio": {"data": "UklGRgAA", "format": "wav"}}
    assert body(request, "openai")["messages"][0]["content"] == [inline]
    as_url = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,UklGRgAA"}}
    assert body(request, "sglang")["messages"][0]["content"] == [as_url]


def test_audio_type_without_a_name_in_the_api_is_refused() -> None:
    with pytest.raises(DataError, match="audio/amr"):
        body(ask(Media("audio", b"#!AMR", "audio/amr")))


def test_ignore_eos_goes_only_to_servers_that_have_it() -> None:
    request = ask(ignore_eos=True)
    assert "ignore_eos" not in body(request, "openai")
    assert body(request, "ming")["ignore_eos"] is True
    assert "ignore_eos" not in body(ask(), "ming")


def test_token_limit_is_spelled_as_the_dialect_has_it() -> None:
    assert body(ask(max_tokens=5), "sglang")["max_tokens"] == 5
    assert body(ask(max_tokens=5), "vllm")["max_completion_tokens"] == 5


def test_speech_is_asked_for_by_modalities() -> None:
    streamed = body(ask(task=Task.T2S), "ming")
    assert streamed["modalities"] == ["text", "audio"]
    assert streamed["audio"] == {"format": "pcm16"}  # the server's own voice
    whole = body(ask(task=Task.T2S, voice="lin", stream=False), "ming")
    assert whole["audio"] == {"voice": "lin", "format": "wav"}
    assert body(ask(task=Task.T2S), "openai")["audio"]["voice"] == "alloy"  # required there


def test_servers_that_speak_unasked_are_told_to_write() -> None:
    assert body(ask(), "vllm")["modalities"] == ["text"]
    assert "modalities" not in body(ask(), "openai")


def test_extra_fields_win() -> None:
    sent = body(ask(extra={"temperature": 0.7, "chat_template_kwargs": {"enable_thinking": True}}))
    assert sent["temperature"] == 0.7
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}


def test_same_request_gives_the_same_bytes() -> None:
    request = ask(Media("image", b"x", "image/png"), Text("é"), seed=1, max_tokens=3)
    assert encode(request, "m", MING) == encode(request, "m", MING)
    assert "é".encode() in encode(request, "m", MING)


# --- decode a chunk ---


def chunk(dialect: str = "openai", **fields: Any) -> list[Event]:
    return decode_chunk(json.dumps(fields).encode(), 1.5, DIALECTS[dialect])


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": fields, "finish_reason": finish_reason, "logprobs": None}


def test_role_and_empty_deltas_are_no_output() -> None:
    assert chunk(choices=[delta(role="assistant", content="")]) == [Event(EventKind.ROLE, 1.5, "assistant")]
    assert chunk(choices=[delta(content="")]) == []
    assert chunk(choices=[delta(content=None)]) == []
    assert chunk(choices=[]) == []


def test_text_with_role_and_finish() -> None:
    events = chunk(choices=[delta("stop", role="assistant", content="Hi")])
    assert events == [Event(EventKind.TEXT, 1.5, "Hi"), Event(EventKind.FINISH, 1.5, "stop")]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_in_both_spellings(key: str) -> None:
    assert chunk(choices=[delta(**{key: "hm"})]) == [Event(EventKind.REASONING, 1.5, "hm")]


def test_reasoning_sent_twice_in_one_delta_counts_once() -> None:
    assert chunk(choices=[delta(reasoning="hm", reasoning_content="hm")]) == [Event(EventKind.REASONING, 1.5, "hm")]


def test_tool_call() -> None:
    calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}, {"index": 1}]
    assert chunk(choices=[delta(tool_calls=calls)]) == [Event(EventKind.TOOL_CALL, 1.5, 'f{"a"')]
    assert chunk(choices=[delta(tool_calls=[{"index": 0, "function": {"arguments": ""}}])]) == []


def test_usage_with_no_choices() -> None:
    usage = {"prompt_tokens": 21, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}}
    assert chunk(choices=[], usage=usage) == [Event(EventKind.USAGE, 1.5, usage=Usage(21, 3, 16))]


def test_audio_tokens_of_the_completion() -> None:
    usage = {"completion_tokens": 9, "completion_tokens_details": {"audio_tokens": 7, "reasoning_tokens": 0}}
    assert chunk(choices=[], usage=usage) == [Event(EventKind.USAGE, 1.5, usage=Usage(None, 9, None, 7))]


def test_usage_beside_text_comes_after_it() -> None:
    events = chunk(choices=[delta(content="a")], usage={"prompt_tokens": 2, "prompt_tokens_details": None})
    assert events == [Event(EventKind.TEXT, 1.5, "a"), Event(EventKind.USAGE, 1.5, usage=Usage(2))]


def test_audio_in_delta() -> None:
    assert chunk(choices=[delta(audio={"id": "a", "data": "AAE="})]) == [Event(EventKind.AUDIO, 1.5, audio=b"\0\1")]
    assert chunk(choices=[delta(audio={"id": "a", "expires_at": 1})]) == []


def test_mstar_speech_has_a_new_id_in_every_chunk_and_usage_that_counts_nothing() -> None:
    pieces = [chunk("mstar", choices=[delta(audio={"id": f"a{i}", "data": "AQAC"})]) for i in range(2)]
    assert pieces == [[Event(EventKind.AUDIO, 1.5, audio=b"\x01\x00\x02")]] * 2
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    message = {"role": "assistant", "content": "hi", "audio": {"id": "a", "data": "AQAC"}}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": zeros}
    events = decode_reply(json.dumps(reply).encode(), 2.0, OPENAI)
    assert [event.kind for event in events] == ["text", "audio", "finish", "usage"]
    assert latency.count_tokens(events).source is TokenSource.EVENTS  # zero tokens beside output are no count


def test_whole_vllm_omni_reply_has_its_audio_in_a_second_choice() -> None:
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"},
        {"index": 0, "message": {"role": "assistant", "audio": {"data": "AQAC", "transcript": ""}}},
    ]
    events = decode_reply(json.dumps({"choices": choices}).encode(), 2.0, OPENAI)
    assert [(event.kind, event.text, event.audio) for event in events] == [
        ("text", "hi", b""),
        ("finish", "stop", b""),
        ("audio", "", b"\x01\x00\x02"),
    ]


def test_usage_on_the_finish_chunk() -> None:
    """SGLang-omni: no chunk of its own for usage."""
    choices = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    events = chunk("sglang", choices=choices, usage={"prompt_tokens": 3, "completion_tokens": 2})
    assert events == [Event(EventKind.FINISH, 1.5, "stop"), Event(EventKind.USAGE, 1.5, usage=Usage(3, 2))]


@pytest.mark.parametrize("name", ["mstar", "transformers", "llamacpp"])
def test_dialects_that_know_max_tokens_alone(name: str) -> None:
    assert body(ask(max_tokens=5), name)["max_tokens"] == 5
    assert ("ignore_eos" in body(ask(ignore_eos=True), name)) is (name == "llamacpp")
    assert body(ask(), name).get("modalities") == (["text"] if name == "mstar" else None)


def test_audio_as_content_with_a_modality() -> None:
    events = chunk("vllm", modality="audio", choices=[delta(role="assistant", content="UklGRgAA")])
    assert events == [Event(EventKind.AUDIO, 1.5, audio=WAV)]
    assert chunk("vllm", modality="text", choices=[delta(content="a")]) == [Event(EventKind.TEXT, 1.5, "a")]


def test_vllm_omni_says_beside_bare_samples_what_they_are() -> None:
    """vllm-omni 0.30.0 sends what `audio.format` asks for, since streams are asked for as pcm16 without a header."""
    metadata = {"format": "pcm", "sample_rate_hz": 44_100, "frame_count": 2, "channels": 1}
    choice = delta(role="assistant", content="AQACAA==") | {"audio_metadata": metadata}
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
    events = chunk("vllm", modality="audio", choices=[choice], usage=usage)
    assert events[0] == Event(EventKind.AUDIO, 1.5, audio=b"\x01\x00\x02\x00", sample_rate_hz=44_100)
    assert [event.kind.value for event in events] == ["audio", "usage"]
    assert audio_s(audio_pieces(events)) == pytest.approx(2 / 44_100)


def test_transcript_is_text_only_where_no_content_comes_beside_it() -> None:
    choice = delta(audio={"id": "a", "transcript": "Hi"})
    assert chunk("openai", choices=[choice]) == [Event(EventKind.TEXT, 1.5, "Hi")]
    assert chunk("ming", choices=[choice]) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"error": {"message": "engine died", "type": "server_error", "code": 500}}, "engine died"),
        ({"error": "engine died"}, "engine died"),
        ({"object": "error", "message": "engine died", "code": 500}, "engine died"),
        ({"error": {"code": 7}}, '{"code":7}'),
        ({"error": {"message": "x" * 900}}, "x" * 500),
    ],
)
def test_error_in_the_stream(fields: dict[str, Any], message: str) -> None:
    assert chunk(**fields, choices=[delta(content="a")]) == [Event(EventKind.ERROR, 1.5, message)]


def test_null_error_is_none() -> None:
    assert chunk(error=None, choices=[delta(content="a")]) == [Event(EventKind.TEXT, 1.5, "a")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b'{"choices": [{"delta": {"con',
        b"5",
        b"null",
        b'{"choices": {}}',
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {"content": "\xff"}}]}',
        b'{"choices": [{"delta": {"audio": {"data": "%%%"}}}]}',
        '{"choices": [{"delta": {"audio": {"data": "é"}}}]}'.encode(),
        b'{"usage": {"completion_tokens": "many"}}',
    ],
)
def test_what_is_no_chunk_is_malformed(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_chunk(data, 0.0, OPENAI)


@given(st.binary(max_size=60))
def test_random_bytes_give_events_or_a_wire_error(data: bytes) -> None:
    try:
        decode_chunk(data, 0.0, VLLM)
    except WireError:
        return
    assert isinstance(json.loads(data), dict)


# --- decode a whole reply ---


def whole(**message: Any) -> list[Event]:
    choices = [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "length"}]
    reply = {"object": "chat.completion", "choices": choices, "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
    return decode_reply(json.dumps(reply).encode(), 2.0, OPENAI)


TAIL = [Event(EventKind.FINISH, 2.0, "length"), Event(EventKind.USAGE, 2.0, usage=Usage(2, 1))]


def test_whole_reply() -> None:
    assert whole(content="Hi") == [Event(EventKind.TEXT, 2.0, "Hi"), *TAIL]


def test_whole_reply_with_reasoning() -> None:
    events = whole(content="Hi", reasoning_content="hm")
    assert events == [Event(EventKind.REASONING, 2.0, "hm"), Event(EventKind.TEXT, 2.0, "Hi"), *TAIL]


def test_whole_reply_with_speech() -> None:
    audio = {"id": "a", "data": "UklGRgAA", "transcript": "Hi"}
    speech = Event(EventKind.AUDIO, 2.0, audio=WAV)
    assert whole(content="Hi", audio=audio) == [Event(EventKind.TEXT, 2.0, "Hi"), speech, *TAIL]
    assert whole(content=None, audio=audio) == [Event(EventKind.TEXT, 2.0, "Hi"), speech, *TAIL]


def test_whole_reply_with_speech_in_a_second_choice() -> None:
    text = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    speech = {"index": 0, "message": {"audio": {"data": "UklGRgAA", "transcript": ""}}, "finish_reason": "stop"}
    events = decode_reply(json.dumps({"choices": [text, speech]}).encode(), 2.0, OPENAI)
    kinds = [event.kind for event in events]
    assert kinds == [EventKind.TEXT, EventKind.FINISH, EventKind.AUDIO, EventKind.FINISH]


# --- error bodies ---


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error": {"message": "too long", "type": "x", "param": null, "code": "y"}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b'{"detail": [{"loc": ["body"], "msg": "bad"}]}', '[{"loc":["body"],"msg":"bad"}]'),
        (b"<html>\n  <h1>Bad   Gateway</h1>", "<html> <h1>Bad Gateway</h1>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        (b"e" * 2000, "e" * 500),
    ],
)
def test_error_text(content: bytes, text: str) -> None:
    assert error_text(content) == text
