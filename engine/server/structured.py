"""`response_format`: what it may hold, and the schema that the answer will follow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.grammar import ANY_OBJECT, INSTALL_HINT, is_available
from engine.server.jsonbody import quoted, refused
from engine.server.plan import Serving

MAX_SCHEMA_BYTES = 64 << 10
MAX_SCHEMA_DEPTH = 32
MAX_PROPERTIES = 1_000
MAX_ENUM_VALUES = 1_000

_PARAM = "response_format"
_SCHEMA = f"{_PARAM}.json_schema.schema"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BACK_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\\(?:[1-9]|k<)")
_COMPILER_OPTIONS = "x-guidance"
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_PLAIN_DATA = ("enum", "const", "default", "examples")


class JsonSchemaBody(msgspec.Struct):
    """`json_schema` of a response format; `strict` changes nothing, every schema is kept to."""

    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JsonSchemaBody | None = None


def schema_of(asked: ResponseFormat | None, serving: Serving) -> str | None:
    """The schema that an answer must follow, as JSON text; None for free text.

    Raises:
        InvalidRequest: the format is not known, not available here, or beyond a limit.
    """
    if asked is None or asked.type == "text":
        return None
    if asked.type not in ("json_object", "json_schema"):
        message = f"response_format.type must be text, json_object or json_schema, got {quoted(asked.type)}"
        raise InvalidRequest(message, param=_PARAM)
    serving.need_tokenizer(_PARAM)
    if not is_available():
        message = f"response_format {asked.type} is not available: the server lacks llguidance ({INSTALL_HINT})"
        raise refused(_PARAM, message)
    return ANY_OBJECT if asked.type == "json_object" else _checked(asked.json_schema)


def _checked(body: JsonSchemaBody | None) -> str:
    if body is None or body.schema is None:
        where = f"{_PARAM}.json_schema" if body is None else _SCHEMA
        raise InvalidRequest(f"{where} is required", param=_PARAM, code="missing_field")
    if body.name is not None and not _NAME.fullmatch(body.name):
        message = f"json_schema.name must have 1 to 64 letters, digits, _ or -, got {quoted(body.name)}"
        raise InvalidRequest(message, param=_PARAM)
    text = msgspec.json.encode(body.schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise _beyond(f"has {len(text)} bytes, at most {MAX_SCHEMA_BYTES} are accepted")
    _Count().take(body.schema)
    return text.decode()


@dataclass(slots=True)
class _Count:
    """What was seen of a schema so far."""

    properties: int = 0
    enum_values: int = 0

    def take(self, schema: object, depth: int = 1) -> None:
        """Count a schema and all within it, which lies at most a few dozen levels deep: the body's parser saw to it."""
        if not isinstance(schema, (dict, list)):
            return
        if depth > MAX_SCHEMA_DEPTH:
            raise _beyond(f"nests more than {MAX_SCHEMA_DEPTH} levels deep")
        if isinstance(schema, list):
            for item in schema:
                self.take(item, depth + 1)
            return
        _check_keywords(schema)
        self._count(schema)
        for inner, levels in _inner(schema):
            self.take(inner, depth + levels)

    def _count(self, schema: Mapping[str, Any]) -> None:
        for name in ("properties", "patternProperties"):
            self.properties += len(schema[name]) if isinstance(schema.get(name), dict) else 0
        self.enum_values += len(schema["enum"]) if isinstance(schema.get("enum"), list) else 0
        if self.properties > MAX_PROPERTIES:
            raise _beyond(f"has more than {MAX_PROPERTIES} properties")
        if self.enum_values > MAX_ENUM_VALUES:
            raise _beyond(f"has more than {MAX_ENUM_VALUES} enum values")


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[object, int]]:
    """Schemas within a schema, and how many levels deeper they lie; names of properties are not keywords."""
    for name, value in schema.items():
        if name in _SCHEMA_MAPS and isinstance(value, dict):
            yield from ((inner, 2) for inner in value.values())
        elif name not in _PLAIN_DATA:
            yield value, 1


def _check_keywords(schema: Mapping[str, Any]) -> None:
    for name in ("$ref", "$dynamicRef"):
        target = schema.get(name)
        if isinstance(target, str) and not target.startswith("#"):
            raise _beyond(f"refers to {quoted(target)}; only references within the schema, #/..., are followed")
    if _COMPILER_OPTIONS in schema:  # could tell the library to pass over what it cannot enforce
        raise _beyond(f"has {_COMPILER_OPTIONS}, which is no keyword of JSON schemas")
    patterns = [schema.get("pattern")]
    if isinstance(schema.get("patternProperties"), dict):
        patterns += schema["patternProperties"]
    for pattern in patterns:
        if isinstance(pattern, str) and _BACK_REFERENCE.search(pattern):
            raise _beyond(f"has a pattern with a back-reference, {quoted(pattern)}")


def _beyond(what: str) -> InvalidRequest:
    return InvalidRequest(f"{_SCHEMA} {what}", param=_PARAM)


def explain(problem: str) -> str:
    """The compiler's complaint in the client's terms, without a word of the library's own text."""
    if found := re.search(r"Unimplemented keys: \[([^\]]*)\]", problem):
        return f"{_SCHEMA} has keywords that cannot be enforced: {quoted(found[1].replace(chr(34), ''))[1:-1]}"
    if "regex" in problem:
        return f"{_SCHEMA} has a pattern that cannot be enforced"
    if "Unknown format" in problem:
        return f"{_SCHEMA} has a format of strings that cannot be enforced"
    if "Pointer" in problem:
        return f"{_SCHEMA} refers to a part that it does not have"
    if "nsatisfiable" in problem:
        return f"{_SCHEMA} cannot be satisfied by any value"
    return f"{_SCHEMA} cannot be enforced: it is not a valid JSON schema, or too complex"


def too_slow(limit_s: float) -> str:
    """The compiler took too long."""
    return f"{_SCHEMA} takes more than {limit_s:g} s of processor time to compile"
