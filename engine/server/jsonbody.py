"""JSON of a client to typed structs: refused and unknown fields, and errors in the client's own terms."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from engine.errors import InvalidRequest
from engine.server.shape import check_shape

log = logging.getLogger(__name__)

_MAX_QUOTED = 100  # characters of a client's value that an answer repeats
_MAX_LOGGED_NAMES = 256
_MAX_EXACT = 2**53  # floats below it that have no fraction are exact integers

# Fields of other servers or of OpenAI's that this one knows and will not honour.
_UNSUPPORTED = (
    "functions",
    "function_call",
    "prediction",
    "web_search_options",
    "use_beam_search",
    "best_of",
    "suffix",
    # Ways of other servers to constrain an answer: one that is free where its client relies on a form is a wrong one.
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
)
_FORBIDDEN = ("chat_template", "prompt_embeds", "logits_processors", "mm_processor_kwargs", "media_io_kwargs")
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_UNSUPPORTED, "unsupported_parameter"),
    **dict.fromkeys(_FORBIDDEN, "forbidden_parameter"),
}
_UNUSED = frozenset({"user", "metadata", "store", "parallel_tool_calls", "service_tier"})

_MISMATCH = re.compile(r"Expected `(?P<want>[^`]+)`, got `(?P<got>[^`]+)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`")
_KINDS = {
    **{"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"},
    **{"object": "an object", "array": "a list", "null": "null"},
}

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_building = threading.Lock()

Body = TypeVar("Body", bound=msgspec.Struct)
T = TypeVar("T")


class FieldLog:
    """Logs each unknown field once, and no more than a few hundred of them."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def note(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._seen and len(self._seen) < _MAX_LOGGED_NAMES:
                self._seen.add(name)
                log.warning("ignoring unknown request field %s", quoted(name))


def decode_body(body: bytes, kind: type[Body], field_log: FieldLog) -> Body:
    """A request body as a struct.

    Raises:
        InvalidRequest: it is not JSON, nests too deeply, has a refused field, or a field of the wrong type.
    """
    check_shape(body)
    fields = _decode(body, dict[str, msgspec.Raw])
    known = set(kind.__struct_fields__)
    _refuse_fields(fields)
    decoded = _decode(body, kind)
    field_log.note(fields.keys() - known - _UNUSED - REFUSED.keys())
    return decoded


def quoted(value: object) -> str:
    """What a client sent, safe to show: JSON escapes, cut to 100 characters."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        value = int(value)  # a client that sent -1 sent no -1.0
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    cut = text[:_MAX_QUOTED] + ("..." if len(text) > _MAX_QUOTED else "")
    return json.dumps(cut) if isinstance(value, str) else cut


def refused(name: str, reason: str, *, code: str = "unsupported_parameter") -> InvalidRequest:
    """The error for a field that is known and not honoured."""
    return InvalidRequest(reason, param=name, code=code)


def _refuse_fields(fields: Mapping[str, msgspec.Raw]) -> None:
    for name in fields.keys() & REFUSED.keys():
        if bytes(fields[name]) not in (b"null", b"false"):  # a switch that is off asks for nothing
            raise refused(name, f"{name} is not supported by this server", code=REFUSED[name])


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """One decoder for each type, none built by two threads at once.

    msgspec 0.22 gathers what it knows of a struct at its first use, and a second thread that finds it half done
    crashes the process.
    """
    if kind not in _decoders:
        with _building:
            _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return _decoders[kind]


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = re.search(r"\(byte \d+\)", str(error))
        message = "The request body is not valid JSON" + (f" {place[0]}." if place else ".")
        raise InvalidRequest(message, code="invalid_json") from None


def _explain(message: str) -> InvalidRequest:
    """The decoder's complaint as one about the client's field."""
    if missing := _MISSING.match(message):
        name = ".".join(filter(None, (missing["path"], missing["name"])))
        return InvalidRequest(f"{name} is required", param=name, code="missing_field")
    if mismatch := _MISMATCH.match(message):
        path = mismatch["path"] or None
        if path is None:
            return InvalidRequest("The request body must be a JSON object.", code="invalid_json")
        if mismatch["got"] == "null":
            return InvalidRequest(f"{path} is required", param=path, code="missing_field")
        return InvalidRequest(f"{path} must be {_kinds(mismatch['want'])}, got {_kinds(mismatch['got'])}", param=path)
    place = _PATH.search(message)
    path = place["path"] if place else None
    return InvalidRequest(f"{path or 'The request body'} has a value that is not allowed", param=path)


def _kinds(names: str) -> str:
    """`int | null` as "an integer"; null is never asked for, it means the field was not given."""
    kinds = [_KINDS.get(name, "another value") for name in names.split(" | ")]
    return " or ".join(kind for kind in kinds if kind != "null" or len(kinds) == 1)
