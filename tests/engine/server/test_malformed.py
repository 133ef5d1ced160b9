"""Whatever a body holds, it becomes a plan or one refusal; nothing else is ever raised."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.server.jsonbody import FieldLog
from engine.server.media import DEFAULT_LIMITS
from engine.server.plan import Serving
from engine.server.protocol import ChatBody, CompletionBody, plan_chat, plan_completion
from engine.server.speech_body import SpeechBody, plan_speech
from engine.server.tokens import DetokenizeBody, TokenizeBody, detokenize, tokenize
from tests.engine.server.fake_engine import INFO, TOKENIZER
from tests.engine.server.fake_talker import INFO as SPEECH_INFO

SERVING = Serving(("ming",), INFO, TOKENIZER, None, DEFAULT_LIMITS, FieldLog(), SPEECH_INFO)
ROUTES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "chat": (plan_chat, ChatBody, {"messages": [{"role": "user", "content": "Hi"}]}),
    "completion": (plan_completion, CompletionBody, {"prompt": "Hi"}),
    "speech": (plan_speech, SpeechBody, {"input": "Hi"}),
    "tokenize": (tokenize, TokenizeBody, {"prompt": "Hi"}),
    "detokenize": (detokenize, DetokenizeBody, {"tokens": [1]}),
}

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=40) | st.sampled_from(
    ["user", "text", "image_url", "data:image/png;base64,AA==", "json_schema"]
)
words = st.sampled_from(
    ["type", "text", "role", "content", "url", "image_url", "name", "id", "schema", "function", "7"]
)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | texts, inner, max_size=4),
    max_leaves=8,
)


def plan_or_refuse(route: str, body: bytes) -> None:
    """Raises whatever is neither."""
    plan, _, _ = ROUTES[route]
    refusal: InvalidRequest | None = None
    try:
        plan(body, SERVING)
    except InvalidRequest as error:
        refusal = error
    if refusal is not None:
        assert 400 <= refusal.status < 500
        assert len(refusal.message) < 1000
        assert refusal.message.isprintable(), "it goes into logs and terminals"


@pytest.mark.parametrize("route", ROUTES)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
@pytest.mark.slow
def test_any_values_in_known_fields(route: str, data: st.DataObject) -> None:
    _, kind, base = ROUTES[route]
    names = st.sampled_from(kind.__struct_fields__)
    body = base | data.draw(st.dictionaries(names, values, min_size=1, max_size=3))
    plan_or_refuse(route, json.dumps(body).encode())


@pytest.mark.parametrize("route", ROUTES)
@given(noise=st.binary(max_size=60), at=st.integers(0, 200))
@settings(max_examples=25, deadline=None)
def test_any_bytes_inside_a_body(route: str, noise: bytes, at: int) -> None:
    body = json.dumps(ROUTES[route][2] | {"max_tokens": 1, "stop": ["x"]}).encode()
    plan_or_refuse(route, body[:at] + noise + body[at:])
