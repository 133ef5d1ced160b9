"""What is seen in the bytes of one stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ming_eval.client.page import Page
from ming_eval.doctor.stream import Traits, read_stream
from ming_eval.targets import DIALECTS

SSE = {"content-type": "text/event-stream"}


def chunk(text: str | None = None, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]} | fields


def data(*chunks: dict[str, Any], newline: str = "\n") -> bytes:
    return "".join(f"data: {json.dumps(each)}{newline * 2}" for each in chunks).encode()


def read(*arrivals: tuple[float, bytes], headers: dict[str, str] = SSE, dialect: str = "openai") -> Traits:
    return read_stream(Page(200, headers, arrivals), DIALECTS[dialect])


USAGE = {"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
DONE = b"data: [DONE]\n\n"
GOOD = data(*(chunk(text) for text in "abcd"), chunk(None, "stop"), USAGE) + DONE


def test_a_stream_as_it_should_be() -> None:
    pieces = GOOD.split(b"\n\n")
    traits = read(*((0.1 * i, piece + b"\n\n") for i, piece in enumerate(pieces) if piece))
    assert traits.oddities == []
    assert (traits.num_tokens, traits.tokens_per_event, traits.finish_reason) == (4, 1.0, "stop")
    assert not traits.is_at_once


def test_a_stream_that_was_held_back() -> None:
    assert read((0.5, GOOD)).is_at_once
    assert not read((0.001, GOOD)).is_at_once  # one packet, so fast that it says nothing


def test_events_that_something_gathers_on_the_way() -> None:
    tokens = [data(chunk(text)) for text in "abcdefghijkl"]
    one_by_one = read(*((0.1 + 0.01 * i, piece) for i, piece in enumerate(tokens)))
    by_three = read(*((0.1 + 0.03 * i, b"".join(tokens[3 * i : 3 * i + 3])) for i in range(4)))
    fast = read(*((0.001 * i, b"".join(tokens[3 * i : 3 * i + 3])) for i in range(4)))
    assert [each.events_per_arrival for each in (one_by_one, by_three, fast)] == [1.0, 3.0, 1.0]


def test_a_token_that_ends_the_answer_shows_in_no_event() -> None:
    """llama.cpp and transformers count it."""
    usage = USAGE | {"usage": {"prompt_tokens": 3, "completion_tokens": 3}}
    assert read((0.1, data(chunk("a"), chunk("b"), chunk(None, "stop"), usage) + DONE)).tokens_per_event == 1.0
    assert read((0.1, data(chunk("a"), chunk("b"), chunk(None, "length"), usage) + DONE)).tokens_per_event == 1.5


@pytest.mark.parametrize(
    ("body", "oddity"),
    [
        (data(chunk("a", "stop"), newline="\r\n") + DONE, "CR LF"),
        (b": ping\n\n" + GOOD, "comments"),
        (GOOD.replace(b"data: {", b"data:{"), "no blank"),
        (GOOD.removesuffix(DONE), "no [DONE]"),
        (GOOD + data(chunk("late")), "after [DONE]"),
        (data(chunk("a"), chunk("b", "stop", id="other")) + DONE, "id changes"),
        (data(chunk("a", "stop"), chunk(None, "stop")) + DONE, "more than one finish_reason"),
        (data(chunk("a"), chunk("b", "stop", usage=USAGE["usage"])) + DONE, "finish chunk"),
        (data(chunk("a", "stop"), chunk(usage=USAGE["usage"])) + DONE, "a choice that says nothing"),  # LiteLLM 1.108
        (b"event: token\n" + GOOD, "have a name ('token')"),
        (data(chunk("UklGRg==", modality="audio"), chunk(None, "stop")) + DONE, "modality"),
    ],
)
def test_oddities(body: bytes, oddity: str) -> None:
    assert any(oddity in found for found in read((0.1, body)).oddities)


def test_an_early_role_event_is_odd() -> None:
    role = data({"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    assert read((0.1, role + GOOD)).oddities == []
    assert "role event 200 ms before" in read((0.1, role), (0.3, GOOD)).oddities[0]


def test_a_whole_reply_where_a_stream_was_asked() -> None:
    body = json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE["usage"]})
    traits = read((0.1, body.encode()), headers={"content-type": "application/json"})
    assert not traits.is_sse
    assert (len(traits.outputs), traits.num_tokens) == (1, 4)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (data(chunk("a")) + b"data: {\n\n", "malformed event"),
        (data(chunk("a"), {"error": {"message": "engine died"}}), "engine died"),
        (b"event: error\n" + data({"message": "no memory"}), "no memory"),
    ],
)
def test_errors(body: bytes, error: str) -> None:
    assert error in (read((0.1, body)).error or "")


def test_lines_of_mstar() -> None:
    traits = read(
        (0.1, b'{"modality": "text", "data": "YQ=="}\n'),
        headers={"content-type": "application/x-ndjson"},
        dialect="mstar-native",
    )
    assert ([event.text for event in traits.outputs], traits.oddities) == (["a"], [])
