"""The OpenAPI description of the endpoint, made from the structs that decode the bodies: `python -m engine openapi`.

It is written out for clients and fuzzers and not served: nothing on the port describes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import msgspec

from engine.server.conversation import AUDIO_FORMATS, MAX_MESSAGES, PART_TYPES, ROLES, MessageBody
from engine.server.protocol import MAX_PROMPTS, ChatBody, CompletionBody
from engine.server.replies import ChatChoiceReply, CompletionChoiceReply
from engine.server.sampling import (
    MAX_BIASES,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TOP_LOGPROBS,
    RANGES,
    Range,
)
from engine.server.speech_body import MAX_CHARS, MAX_TEMPERATURE, NOT_IN_CHATS, SpeechBody
from engine.server.tokens import DetokenizeBody, TokenizeBody
from engine.server.transcription import LANGUAGES, MAX_PROMPT_CHARS, TranscriptFormat
from engine.server.usage import Usage
from engine.source import engine_version

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_STRUCTS = (ChatBody, CompletionBody, SpeechBody, TokenizeBody, DetokenizeBody, MessageBody)
_REPLIES = (ChatChoiceReply, CompletionChoiceReply, Usage)

# What the types of the structs do not say: (struct, field) to the keywords that hold for its value where it is given.
_SAMPLING_LIMITS: Mapping[str, Json] = {
    "max_tokens": {"minimum": 0},
    "min_tokens": {"minimum": 0},
    "top_k": {"minimum": -1},
    "stop": {"maxItems": MAX_STOPS, "maxLength": MAX_STOP_CHARS},
    "stop_token_ids": {"maxItems": MAX_STOPS},
    "logit_bias": {"maxProperties": MAX_BIASES},
}
_LIMITS: Mapping[tuple[str, str], Json] = {
    ("ChatBody", "messages"): {"minItems": 1, "maxItems": MAX_MESSAGES},
    ("ChatBody", "max_completion_tokens"): {"minimum": 1},
    ("ChatBody", "max_tokens"): {"minimum": 1},
    ("ChatBody", "top_logprobs"): {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
    ("ChatBody", "reasoning_effort"): {"enum": ["none", "low", "medium", "high"]},
    ("CompletionBody", "prompt"): {"maxItems": MAX_PROMPTS},
    ("CompletionBody", "logprobs"): {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
    ("MessageBody", "role"): {"enum": list(ROLES)},
    ("PartBody", "type"): {"enum": list(PART_TYPES)},
    ("AudioSource", "format"): {"enum": list(AUDIO_FORMATS)},
    ("ResponseFormat", "type"): {"enum": ["text", "json_object", "json_schema"]},
    ("SpeechBody", "input"): {"minLength": 1, "maxLength": MAX_CHARS},
    ("SpeechBody", "speed"): {"minimum": 0.25, "maximum": 4.0},
    ("SpeechBody", "temperature"): {"minimum": 0.0, "maximum": MAX_TEMPERATURE},
    ("SpeechBody", "stream_format"): {"enum": ["audio", "sse"]},
}
_KEYWORDS_OF = {
    "integer": ("minimum", "maximum", "exclusiveMinimum"),
    "number": ("minimum", "maximum", "exclusiveMinimum"),
    "string": ("minLength", "maxLength", "enum"),
    "array": ("minItems", "maxItems"),
    "object": ("maxProperties",),
}

_ERRORS = {
    400: "A field is missing, of the wrong type, out of range or not honoured, or the body is no JSON.",
    401: "The API key is missing or not accepted.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "The body is larger than this route takes.",
    415: "The content type or coding is not accepted.",
    417: "An Expect header other than 100-continue.",
    421: "The Host is not this machine, where the server is bound to this machine alone.",
    429: "The queue is full; Retry-After says when to come back.",
    431: "The headers are too large.",
    500: "The server failed.",
    503: "The server is starting, draining, or its engine or its decoders have failed.",
    504: "The request took longer than the server allows.",
}
_ERRORS_WITHOUT_BODY = (400, 401, 404, 421, 431, 500, 503)


def describe() -> Json:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ming-eval",
            "version": engine_version(),
            "description": "OpenAI-compatible endpoint of Ming-flash-omni-2.0.",
        },
        "security": [{"key": []}, {}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def main() -> int:
    """Print the document."""
    print(json.dumps(describe(), indent=1))
    return 0


def _schemas() -> Json:
    _, schemas = msgspec.json.schema_components((*_STRUCTS, *_REPLIES), ref_template=_REF)
    schemas = {name.replace("[", "_").replace("]", ""): schema for name, schema in schemas.items()}
    for name in ("ChatBody", "CompletionBody"):
        _limit_fields(schemas[name], _SAMPLING_LIMITS)
        _limit_fields(schemas[name], {field: _keywords(limits) for field, limits in RANGES.items()})
    for (name, field), keywords in _LIMITS.items():
        _limit_fields(schemas[name], {field: keywords})
    for name in NOT_IN_CHATS:  # known, so as to be refused
        del schemas["SpokenBody"]["properties"][name]
    return {
        **schemas,
        "Error": _error_schema(),
        "Model": _object(
            id="string", object="string", created="integer", owned_by="string", root="string", max_model_len="integer"
        ),
        "Chat": _reply("chat.completion", "ChatChoiceReply"),
        "Completion": _reply("text_completion", "CompletionChoiceReply"),
        "Tokens": _object(count="integer", max_model_len="integer", tokens="array"),
        "Transcript": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    }


def _keywords(limits: Range) -> Json:
    return {"exclusiveMinimum" if limits.above else "minimum": limits.low, "maximum": limits.high}


def _limit_fields(schema: Json, limits: Mapping[str, Json]) -> None:
    for field, keywords in limits.items():
        for variant in _variants(schema["properties"][field]):
            allowed = _KEYWORDS_OF.get(variant.get("type", ""), ())
            variant.update({name: value for name, value in keywords.items() if name in allowed})


def _variants(schema: Json) -> Iterator[Json]:
    yield from schema.get("anyOf", [schema])


def _error_schema() -> Json:
    text = {"type": ["string", "null"]}
    fields = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    error = {"type": "object", "required": [*fields], "properties": fields, "additionalProperties": False}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _object(**types: str) -> Json:
    """An object, all of whose fields are there."""
    return {
        "type": "object",
        "required": [*types],
        "properties": {name: {"type": kind} for name, kind in types.items()},
    }


def _reply(kind: str, choice: str) -> Json:
    schema = _object(id="string", object="string", created="integer", model="string", choices="array", usage="object")
    schema["properties"] |= {
        "object": {"const": kind},
        "choices": {"type": "array", "items": _ref(choice)},
        "usage": _ref("Usage"),
    }
    return schema


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


def _paths() -> Json:
    status = _object(status="string")
    cards = {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}
    listing = {"type": "object", "required": [*cards], "properties": cards}
    return {
        "/health": {"get": _open("Whether the server takes work.", status, {503: _answer("It does not.", status)})},
        "/metrics": {"get": _open("Prometheus text.", None, kind="text/plain")},
        "/version": {"get": _open("The version of the server.", _object(version="string"))},
        "/v1/models": {"get": _get("Cards of the served models.", listing)},
        "/v1/models/{name}": {"get": _get("The card of one model.", _ref("Model")) | {"parameters": [_model_name()]}},
        "/v1/chat/completions": {"post": _post("Answer a conversation.", "ChatBody", _ref("Chat"), stream=True)},
        "/v1/completions": {
            "post": _post("Go on with raw prompts.", "CompletionBody", _ref("Completion"), stream=True)
        },
        "/v1/audio/speech": {"post": _speech()},
        "/v1/audio/transcriptions": {"post": _transcriptions()},
        "/tokenize": {"post": _post("Ids of a prompt or a chat.", "TokenizeBody", _ref("Tokens"))},
        "/detokenize": {"post": _post("The text of ids.", "DetokenizeBody", _object(prompt="string"))},
        "/tokenizer_info": {"get": _get("What a remote tokenizer needs to know.", {"type": "object"})},
    }


def _open(summary: str, schema: Json | None, more: Mapping[int, Json] | None = None, kind: str = "") -> Json:
    """A GET route that needs no key."""
    responses = _failures((400, 401, 421, 431, 500)) | {str(code): answer for code, answer in (more or {}).items()}
    responses["200"] = _answer("Done.", schema or {"type": "string"}, kind or "application/json")
    return {"summary": summary, "security": [{}], "responses": responses}


def _get(summary: str, schema: Json) -> Json:
    return {"summary": summary, "responses": {"200": _answer("Done.", schema)} | _failures(_ERRORS_WITHOUT_BODY)}


def _post(summary: str, body: str, schema: Json, *, stream: bool = False) -> Json:
    done = _answer("Done.", schema)
    if stream:
        done["content"]["text/event-stream"] = {}  # OpenAPI 3.1 has no words for events
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
        "responses": {"200": done} | _failures(_ERRORS),
    }


def _speech() -> Json:
    operation = _post("Speak a text.", "SpeechBody", {"type": "string"}, stream=True)
    audio = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    kinds = ("audio/wav", "audio/pcm", "audio/flac", "audio/mpeg", "audio/ogg")
    operation["responses"]["200"]["content"] = dict.fromkeys(kinds, audio) | {"text/event-stream": {}}
    return operation


def _transcriptions() -> Json:
    text = {"type": "string"}
    fields = {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "model": text,
        "language": text | {"examples": [*LANGUAGES]},
        "prompt": text | {"maxLength": MAX_PROMPT_CHARS},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "response_format": {"enum": list(get_args(TranscriptFormat))},
    }
    form = {"type": "object", "required": ["file"], "properties": fields}
    operation = _post("Write down what is said in a clip.", "SpeechBody", _ref("Transcript"))
    operation["requestBody"]["content"] = {"multipart/form-data": {"schema": form}}
    operation["responses"]["200"]["content"]["text/plain"] = {"schema": text}
    return operation


def _answer(description: str, schema: Json, kind: str = "application/json") -> Json:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _failures(codes: Mapping[int, str] | Sequence[int]) -> Json:
    return {str(code): _answer(_ERRORS[code], _ref("Error")) for code in codes}


def _model_name() -> Json:
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
