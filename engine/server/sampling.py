"""Sampling fields that chat and completions share: types, ranges, and what they mean to the engine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from engine.core.request import SamplingParams
from engine.errors import InvalidRequest
from engine.server.jsonbody import quoted
from engine.server.plan import Serving
from engine.server.structured import ResponseFormat, schema_of
from engine.server.text import StopRule

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_BIASES = 1024
MAX_SAMPLES = 16
MAX_TOP_LOGPROBS = 20
_MAX_ID_DIGITS = 10
_SMALLEST = 1e-5  # what temperature, top_p and a penalty may divide by: much less is 0 or infinite in float32


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingBody(msgspec.Struct, kw_only=True):
    """Fields of both generation routes; null means "not given" in all of them."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`; with `above`, `low` itself is not among them."""

    low: float
    high: float
    above: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"above {self.low:g} and at most {self.high:g}" if self.above else f"between {self.low} and {self.high}"


RANGES: Mapping[str, Range] = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, above=True),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0, 2, above=True),
    "seed": Range(-(2**63), 2**64 - 1),
    "n": Range(1, MAX_SAMPLES),
}


def check_range(name: str, value: float | None, limits: Range) -> None:
    """Raises:
    InvalidRequest: `value` is given and outside `limits`.
    """
    if value is not None and not limits.holds(value):
        raise InvalidRequest(f"{name} must be {limits}, got {quoted(value)}", param=name)


def check_model(name: str | None, serving: Serving) -> None:
    """Raises:
    InvalidRequest: a model is named that is not served (404).
    """
    if name is not None and name not in serving.names:
        message = f"the model {quoted(name)} is not served here; GET /v1/models lists what is"
        raise InvalidRequest(message, param="model", code="model_not_found", status=404)


def check_sampling(body: SamplingBody, serving: Serving) -> None:
    """Check all fields that do not depend on the prompt.

    Raises:
        InvalidRequest: naming the field and its limits, or a model that is not served (404).
    """
    check_model(body.model, serving)
    for name, limits in RANGES.items():
        check_range(name, getattr(body, name), limits)
    check_range("top_k", body.top_k, Range(-1, serving.info.vocab_size))
    check_range("min_tokens", body.min_tokens, Range(0, serving.info.max_model_len))
    _check_stream(body)
    _check_stops(body, serving)
    _check_biases(body.logit_bias or {}, serving.info.vocab_size)


def stop_rule(body: SamplingBody) -> StopRule:
    """The stop strings of a request."""
    strings = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return StopRule(strings, bool(body.include_stop_str_in_output))


def sampling_params(
    body: SamplingBody,
    serving: Serving,
    *,
    max_tokens: int,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """What the engine gets; defaults are those of the HTTP contract.

    Raises:
        InvalidRequest: `min_tokens` is above `max_tokens`, or the response format cannot be enforced.
    """
    min_tokens = body.min_tokens or 0
    temperature = _given(body.temperature, 1.0)
    json_schema = schema_of(body.response_format, serving)
    if json_schema is not None:
        _check_end_is_free(body)
    if min_tokens > max_tokens:
        raise InvalidRequest(f"min_tokens must be at most {max_tokens}, got {min_tokens}", param="min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=0.0 if temperature < _SMALLEST else temperature,
        top_p=max(_given(body.top_p, 1.0), _SMALLEST),
        top_k=max(0, body.top_k or 0),
        min_p=_given(body.min_p, 0.0),
        presence_penalty=_given(body.presence_penalty, 0.0),
        frequency_penalty=_given(body.frequency_penalty, 0.0),
        repetition_penalty=max(_given(body.repetition_penalty, 1.0), _SMALLEST),
        seed=secrets.randbits(63) if body.seed is None else body.seed,
        eos_token_ids=() if body.ignore_eos else serving.info.eos_token_ids,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        json_schema=json_schema,
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _check_stream(body: SamplingBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed with stream", param="stream_options")


def _check_stops(body: SamplingBody, serving: Serving) -> None:
    strings = stop_rule(body).strings
    if strings:
        serving.need_tokenizer("stop")
    if len(strings) > MAX_STOPS:
        raise InvalidRequest(f"stop must have at most {MAX_STOPS} strings, got {len(strings)}", param="stop")
    for text in strings:
        if not 1 <= len(text) <= MAX_STOP_CHARS:
            message = f"stop strings must have 1 to {MAX_STOP_CHARS} characters, got {len(text)}"
            raise InvalidRequest(message, param="stop")
    stop_ids = body.stop_token_ids or []
    if len(stop_ids) > MAX_STOPS:
        raise InvalidRequest(
            f"stop_token_ids must have at most {MAX_STOPS} ids, got {len(stop_ids)}", param="stop_token_ids"
        )
    for token in stop_ids:
        check_token("stop_token_ids", token, serving.info.vocab_size)


def _check_biases(biases: Mapping[str, float], vocab_size: int) -> None:
    if len(biases) > MAX_BIASES:
        raise InvalidRequest(
            f"logit_bias must have at most {MAX_BIASES} entries, got {len(biases)}", param="logit_bias"
        )
    for key, bias in biases.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= _MAX_ID_DIGITS):
            raise InvalidRequest(f"logit_bias keys must be token ids, got {quoted(key)}", param="logit_bias")
        check_token("logit_bias", int(key), vocab_size)
        if not -100 <= bias <= 100:
            raise InvalidRequest(f"logit_bias values must be between -100 and 100, got {bias:g}", param="logit_bias")


def check_token(name: str, token: int, vocab_size: int) -> None:
    """Raises:
    InvalidRequest: the vocabulary has no such id.
    """
    if not 0 <= token < vocab_size:
        message = f"{name} has an id outside the vocabulary of {vocab_size} tokens, {quoted(token)}"
        raise InvalidRequest(message, param=name)


def _check_end_is_free(body: SamplingBody) -> None:
    """Behind complete JSON nothing but the end can follow.

    Raises:
        InvalidRequest: the request forbids the end.
    """
    for name in ("ignore_eos", "min_tokens"):
        if getattr(body, name):
            raise InvalidRequest(
                f"{name} cannot be used with response_format: JSON ends where it is complete", param=name
            )
