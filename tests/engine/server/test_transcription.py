"""The transcription route: forms, fields, what the thinker is asked, and what becomes of its answer."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.inputs.media import MediaArray, Preprocessed
from engine.server.jsonbody import FieldLog
from engine.server.multipart import MAX_PARTS, FormField, parse_form
from engine.server.plan import Serving
from engine.server.transcription import INSTRUCTION, TranscriptionPlan, plan_transcription
from tests.engine.server.endpoint import endpoint, on_loop
from tests.engine.server.fake_engine import CONTEXT, EOS, INFO, TOKENIZER

ROUTE = "/v1/audio/transcriptions"
TYPE = 'multipart/form-data; boundary="XyZ"'
CLIP = b"RIFF\r\n--not the boundary\r\n"
SERVING = Serving(("ming",), replace(INFO, modalities=("text", "audio")), TOKENIZER, None, {"audio": 4}, FieldLog())


def form(**fields: str | bytes) -> bytes:
    """A body as browsers and SDKs write it; bytes are files."""
    body = b""
    for name, value in fields.items():
        head = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            head += '; filename="clip.wav"\r\nContent-Type: audio/wav'
        body += (
            b"--XyZ\r\n" + head.encode() + b"\r\n\r\n" + (value.encode() if isinstance(value, str) else value) + b"\r\n"
        )
    return body + b"--XyZ--\r\n"


def plan(duration_s: float = 2.0, **fields: str) -> TranscriptionPlan:
    needed = plan_transcription(form(file=CLIP, **fields), SERVING, TYPE)
    (part,) = needed.parts
    assert part.url == "data:;base64," + "UklGRg0KLS1ub3QgdGhlIGJvdW5kYXJ5DQo="
    num_frames = round(duration_s * 100)
    array = MediaArray((num_frames, 128), "float32", b"", None, 5, b"d")
    return needed.finish([Preprocessed("audio", (array,))])


def prompt_text(planned: TranscriptionPlan) -> str:
    return TOKENIZER.decode(planned.plan.prompts[0].ids, skip_special=False)


def test_form_of_a_browser() -> None:
    assert parse_form(b"preamble\r\n" + form(model="ming", file=CLIP), TYPE) == [
        FormField("model", None, b"ming"),
        FormField("file", "clip.wav", CLIP),
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary()), max_size=5))
def test_any_bytes_come_through(fields: list[tuple[str, bytes]]) -> None:
    wanted = [(name, data) for name, data in fields if b"\r\n--XyZ" not in b"\r\n" + data]
    body = b"".join(
        b'--XyZ\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), d) for n, d in wanted
    )
    assert [(field.name, field.data) for field in parse_form(body + b"--XyZ--", TYPE)] == wanted


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_fail(body: bytes) -> None:
    for text in (body, b"--XyZ" + body, b"--XyZ\r\n" + body + b"\r\n--XyZ--"):
        with suppress(InvalidRequest):
            parse_form(text, TYPE)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (form(file=CLIP), "multipart/form-data", "no boundary"),
        (form(file=CLIP), f"multipart/form-data; boundary={'x' * 71}", "no boundary"),
        (b"", TYPE, "no part begins"),
        (form(file=CLIP)[:-8], TYPE, "its end is missing"),
        (b"--XyZ\r\n\r\nx\r\n--XyZ--", TYPE, "no name"),
        (b"--XyZ\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XyZ--", TYPE, "no name"),
        (b"--XyZ\r\nX: " + b"y" * 9000 + b"\r\n\r\nx\r\n--XyZ--", TYPE, "no end of its headers"),
        (form(**{f"f{n}": "x" for n in range(MAX_PARTS + 1)}), TYPE, f"more than {MAX_PARTS} parts"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_form(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_form(body, content_type)


def test_thinker_is_asked_as_it_was_trained() -> None:
    planned = plan()
    text = prompt_text(planned)
    assert f"<role>HUMAN</role>{INSTRUCTION}<audio>" in text
    assert text.endswith("</audio><|role_end|><role>ASSISTANT</role>")
    assert planned.plan.sampling.temperature == 0
    assert planned.plan.sampling.eos_token_ids == (EOS,)
    assert planned.plan.sampling.max_tokens == 64 + 24
    assert prompt_text(plan(language="zh-CN")).endswith("<role>ASSISTANT</role>Chinese\t")
    assert prompt_text(plan(language="english")).endswith("<role>ASSISTANT</role>English\t")
    assert f"{INSTRUCTION}\nMing, Ling\n<audio>" in prompt_text(plan(prompt="Ming, Ling"))
    assert plan(temperature="0.5").plan.sampling.temperature == 0.5
    long = plan(duration_s=300).plan
    assert long.sampling.max_tokens == CONTEXT - len(long.prompts[0].ids)


@pytest.mark.parametrize(
    ("fields", "said", "body"),
    [
        ({}, " hello ", {"text": "hello", "usage": {"type": "duration", "seconds": 3}}),
        ({"response_format": "json"}, "English\thello", {"text": "hello", "usage": {"type": "duration", "seconds": 3}}),
        (
            {"response_format": "verbose_json"},
            "Chinese\t你好\tA",
            {
                "task": "transcribe",
                "language": "chinese",
                "duration": 2.05,
                "text": "你好\tA",
                "usage": {"type": "duration", "seconds": 3},
            },
        ),
        (
            {"response_format": "verbose_json", "language": "en"},
            "Tab\tstays",  # the language was given, so the tab is the speaker's
            {
                "task": "transcribe",
                "language": "english",
                "duration": 2.05,
                "text": "Tab\tstays",
                "usage": {"type": "duration", "seconds": 3},
            },
        ),
    ],
)
def test_answer(fields: dict[str, str], said: str, body: dict[str, Any]) -> None:
    planned = plan(duration_s=2.05, **fields)
    assert planned.content_type == "application/json"
    assert json.loads(planned.answer(said)) == body


def test_answer_as_text() -> None:
    planned = plan(response_format="text")
    assert (planned.content_type, planned.answer("English\tHé")) == ("text/plain; charset=utf-8", "Hé".encode())


INVALID: list[tuple[dict[str, str | bytes], str, str]] = [
    ({"model": "ming"}, "file", "missing_field"),
    ({"file": CLIP, "language": "xx"}, "language", "invalid_value"),
    ({"file": CLIP, "temperature": "hot"}, "temperature", "invalid_value"),
    ({"file": CLIP, "temperature": "nan"}, "temperature", "invalid_value"),
    ({"file": CLIP, "temperature": "2.5"}, "temperature", "invalid_value"),
    ({"file": CLIP, "response_format": "srt"}, "response_format", "invalid_value"),
    ({"file": CLIP, "prompt": "x" * 4097}, "prompt", "invalid_value"),
    ({"file": CLIP, "prompt": b"\xff"}, "prompt", "invalid_value"),
    ({"file": CLIP, "stream": "true"}, "stream", "unsupported_parameter"),
    ({"file": CLIP, "timestamp_granularities[]": "word"}, "timestamp_granularities", "unsupported_parameter"),
    ({"file": CLIP, "file[]": CLIP}, "file", "invalid_value"),
]


@on_loop
async def test_refused() -> None:
    async with endpoint() as server:
        for fields, param, code in INVALID:
            headers = {"Content-Type": TYPE}
            async with server.session.post(server.url + ROUTE, data=form(**fields), headers=headers) as response:
                error = (await response.json())["error"]
                assert (response.status, error["param"], error["code"]) == (400, param, code), error
        fields = {"file": CLIP, "model": "whisper-1"}
        async with server.session.post(server.url + ROUTE, data=form(**fields), headers=headers) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "model_not_found")
        async with server.session.post(server.url + ROUTE, json={"file": "x"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (415, "unsupported_media_type")
        data = aiohttp.FormData({"file": "x" * 100})
        async with server.session.post(server.url + "/v1/chat/completions", data=data) as response:
            assert response.status == 415
        # the fake engine hears nothing
        async with server.session.post(server.url + ROUTE, data=form(file=CLIP), headers=headers) as response:
            error = (await response.json())["error"]
            assert (response.status, error["param"], error["code"]) == (400, "file", "unsupported_parameter")
