"""Requests that must succeed, of every kind and of random lengths, and what their answers must hold."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from tests.engine.inputs.media_files import audio_file, image_file
from tests.pressure.wire import Answer, post_json

_WORDS = "the model hears a bell and sees seven red boats near an old stone bridge while it rains".split()


@dataclass(frozen=True)
class Valid:
    """A request and a check of its answer that raises AssertionError."""

    kind: str
    data: bytes
    check: Callable[[Answer], None]


def valid(random: Random, *, speech: bool = True) -> Valid:
    """One request; `speech` says whether the server has a talker."""
    weights = {kind: weight for kind, (weight, _) in _KINDS.items() if speech or kind not in _SPOKEN}
    kind = random.choices(list(weights), list(weights.values()))[0]
    path, body, check = _KINDS[kind][1](random)
    return Valid(kind, post_json(path, body), check)


def one_of_each() -> list[Valid]:
    """A request of every kind."""
    drawn = ((kind, draw(Random(kind))) for kind, (_, draw) in _KINDS.items())
    return [Valid(kind, post_json(path, body), check) for kind, (path, body, check) in drawn]


Drawn = tuple[str, dict[str, Any], Callable[[Answer], None]]


def _chat(random: Random, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": _text(random)}], "max_tokens": _length(random), "ignore_eos": True}
    return body | {"temperature": random.choice((0, 0.8)), "seed": random.randrange(1000)} | fields


def _text(random: Random) -> str:
    return " ".join(random.choices(_WORDS, k=1 + int(random.expovariate(1 / 30))))


def _length(random: Random) -> int:
    """Tokens to generate: mostly few, sometimes many."""
    return 1 + min(127, int(random.expovariate(1 / 16)))


def _chat_stream(random: Random) -> Drawn:
    body = _chat(random, stream=True, stream_options={"include_usage": True})
    return "/v1/chat/completions", body, lambda answer: _check_stream(answer, body["max_tokens"])


def _chat_whole(random: Random) -> Drawn:
    body = _chat(random, n=random.choice((1, 1, 2)), logprobs=True, top_logprobs=2)

    def check(answer: Answer) -> None:
        reply = answer.json()
        assert reply["usage"]["completion_tokens"] == body["n"] * body["max_tokens"]
        assert [choice["finish_reason"] for choice in reply["choices"]] == ["length"] * body["n"]
        assert len(reply["choices"][0]["logprobs"]["content"]) == body["max_tokens"]

    return "/v1/chat/completions", body, check


def _completion(random: Random) -> Drawn:
    num_tokens = 1 + int(random.expovariate(1 / 60))
    ids = [random.randrange(10, 200) for _ in range(num_tokens)]
    body = {"prompt": [ids, ids[:1]], "max_tokens": _length(random), "ignore_eos": True, "return_token_ids": True}

    def check(answer: Answer) -> None:
        assert [len(choice["token_ids"]) for choice in answer.json()["choices"]] == [body["max_tokens"]] * 2

    return "/v1/completions", body, check


def _scoring(random: Random) -> Drawn:
    body = {"prompt": _text(random), "max_tokens": random.choice((0, 1)), "logprobs": 1, "echo": True, "temperature": 0}

    def check(answer: Answer) -> None:
        reply = answer.json()
        total = reply["usage"]["total_tokens"]
        assert len(reply["choices"][0]["logprobs"]["token_logprobs"]) == total

    return "/v1/completions", body, check


def _structured(random: Random) -> Drawn:
    properties = {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "word": {"enum": random.sample(_WORDS, 2)}}
    schema = {"type": "object", "properties": properties, "required": ["n", "word"], "additionalProperties": False}
    body = _chat(random, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    body |= {"ignore_eos": False, "max_tokens": 64}

    def check(answer: Answer) -> None:
        (choice,) = answer.json()["choices"]
        if choice["finish_reason"] == "stop":  # otherwise it is cut, mostly within blanks
            assert json.loads(choice["message"]["content"]).keys() == {"n", "word"}

    return "/v1/chat/completions", body, check


def _tokenize(random: Random) -> Drawn:
    def check(answer: Answer) -> None:
        reply = answer.json()
        assert reply["count"] == len(reply["tokens"]) > 0

    return "/tokenize", {"prompt": _text(random)}, check


def _with_media(random: Random) -> Drawn:
    part = random.choice(_media_parts())
    content = [part, {"type": "text", "text": _text(random)}]
    body = _chat(random, stream=True, stream_options={"include_usage": True}, max_tokens=4)
    body["messages"][0]["content"] = content
    return "/v1/chat/completions", body, lambda answer: _check_stream(answer, 4)


def _spoken_chat(random: Random) -> Drawn:
    body = _chat(random, modalities=["text", "audio"], audio={"format": "pcm16"}, stream=True, max_tokens=6)

    def check(answer: Answer) -> None:
        reasons = [choice["finish_reason"] for event in answer.events() for choice in event["choices"]]
        assert [reason for reason in reasons if reason] == ["length"]

    return "/v1/chat/completions", body, check


def _speech(random: Random) -> Drawn:
    body = {"input": random.choice(_WORDS).capitalize() + ".", "response_format": "wav", "max_new_tokens": 8}

    def check(answer: Answer) -> None:
        assert answer.body[:4] == b"RIFF"

    return "/v1/audio/speech", body, check


def _check_stream(answer: Answer, num_tokens: int) -> None:
    events = answer.events()
    assert not any("error" in event for event in events), events[-1]
    assert events[-1]["usage"]["completion_tokens"] == num_tokens
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]


@cache
def _media_parts() -> tuple[dict[str, Any], ...]:
    images = [("image_url", "image/png", image_file("PNG", (64 + 28 * n, 56))) for n in range(3)]
    sounds = [("audio_url", "audio/wav", audio_file("wav", 8000 * n)) for n in (1, 2)]
    return tuple(
        {"type": kind, kind: {"url": f"data:{mime};base64,{b64encode(data).decode()}"}}
        for kind, mime, data in (*images, *sounds)
    )


_KINDS: Mapping[str, tuple[int, Callable[[Random], Drawn]]] = {
    "chat-stream": (40, _chat_stream),
    "chat-whole": (18, _chat_whole),
    "completion": (14, _completion),
    "scoring": (10, _scoring),
    "tokenize": (8, _tokenize),
    "structured": (4, _structured),
    "media": (5, _with_media),
    "spoken-chat": (2, _spoken_chat),
    "speech": (3, _speech),
}
_SPOKEN = ("spoken-chat", "speech")
