"""The description of the endpoint says what the endpoint does: same routes, same fields, same limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from engine.server.openapi import describe
from engine.server.protocol import ChatBody, CompletionBody
from tests.engine.server.endpoint import chat_body, endpoint, on_loop

METHODS = {"get", "post"}


@on_loop
async def test_every_route_is_described_and_nothing_else() -> None:
    async with endpoint() as server:
        router = server.service_routes()
    described = {
        (method.upper(), path) for path, item in describe()["paths"].items() for method in METHODS & item.keys()
    }
    assert described == router


def test_every_reference_leads_somewhere() -> None:
    document = describe()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= document["components"]["schemas"].keys()
    assert {"ChatBody", "CompletionBody", "Error", "Usage"} <= names


def test_every_operation_answers_errors_with_the_envelope() -> None:
    for path, item in describe()["paths"].items():
        for method in METHODS & item.keys():
            answers = item[method]["responses"]
            assert "200" in answers
            for status, answer in answers.items():
                if status != "200" and (path, status) != ("/health", "503"):
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Error"}, (path, status)


@pytest.mark.parametrize("kind", [ChatBody, CompletionBody])
def test_every_field_of_a_body_is_described(kind: type[Any]) -> None:
    assert describe()["components"]["schemas"][kind.__name__]["properties"].keys() == set(kind.__struct_fields__)


def bounds(field: str) -> list[tuple[str, float]]:
    """Values one step outside what the description allows for a number of a chat."""
    schema = describe()["components"]["schemas"]["ChatBody"]["properties"][field]
    (number,) = [variant for variant in schema["anyOf"] if variant.get("type") in ("number", "integer")]
    step = 1 if number["type"] == "integer" else 0.5
    low = [number["minimum"] - step] if "minimum" in number else []
    return [(field, value) for value in [*low, number.get("exclusiveMinimum"), number["maximum"] + step]]


@on_loop
async def test_described_bounds_are_those_of_the_server() -> None:
    fields = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "n")
    async with endpoint() as server:
        for field, value in [pair for name in fields for pair in bounds(name)]:
            if value is not None:
                _, error = await server.refused("/v1/chat/completions", chat_body(**{field: value}))
                assert error["param"] == field


@pytest.mark.slow
def test_description_is_printed() -> None:
    printed = subprocess.run([sys.executable, "-m", "engine", "openapi"], capture_output=True, check=True, text=True)
    assert json.loads(printed.stdout) == describe()
