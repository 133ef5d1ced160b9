"""The chat and completions API on the wire: `Request` -> JSON body, JSON -> `Event`s. Pure; the dialect is a value.

JSON is decoded into structs that name only what is read: unknown fields cost nothing and change nothing.
A field of the wrong type is a malformed reply, never a guess.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ming_eval.client import completions, generate
from ming_eval.errors import DataError
from ming_eval.targets import Dialect
from ming_eval.types import Event, EventKind, Media, Message, Part, Request, Text, TokenLogprob, Usage

MAX_ERROR_CHARS = 500

_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/ogg": "ogg",
}

# No token has the number -1. `min_new_tokens` would say the same of one request, and is not looked at where
# transformers batches continuously.
_NO_EOS: dict[str, Any] = {"ignore_eos": True, "generation_config": '{"eos_token_id": -1}'}


class WireError(ValueError):
    """Bytes that are not what the chat API sends."""


# --- Request -> JSON ---------------------------------------------------------------------------------------------


def content_type(dialect: Dialect) -> str:
    """What `encode` gives."""
    return generate.CONTENT_TYPE if dialect.api == "generate" else "application/json"


def encode(request: Request, model: str | None, dialect: Dialect) -> bytes:
    """The body of one request: JSON, or the form of a dialect that takes one.

    Raises:
        DataError: a part of the request cannot be written in this dialect.
    """
    if dialect.api == "generate":
        return generate.encode_form(request)
    body: dict[str, Any] = {} if model is None else {"model": model}
    if dialect.api == "completions":
        body["prompt"] = completions.prompt_of(request)
    else:
        body["messages"] = _messages(request, dialect)
    body |= _sampling(request, dialect) | _output(request, dialect) | dict(request.extra)
    return msgspec.json.encode(body)


def _sampling(request: Request, dialect: Dialect) -> dict[str, Any]:
    fields: dict[str, Any] = {
        dialect.max_tokens_key: request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.ignore_eos and dialect.ignore_eos_key is not None:
        fields[dialect.ignore_eos_key] = _NO_EOS[dialect.ignore_eos_key]
    return {name: value for name, value in fields.items() if value is not None}


def _output(request: Request, dialect: Dialect) -> dict[str, Any]:
    fields: dict[str, Any] = {"stream": request.stream}
    if request.stream:
        fields["stream_options"] = {"include_usage": True}
    if dialect.api == "completions":
        return fields
    if request.wants_audio:
        voice = request.voice or dialect.default_voice
        audio = {"format": "pcm16" if request.stream else "wav"}
        fields["modalities"] = ["text", "audio"]
        fields["audio"] = audio if voice is None else {"voice": voice} | audio
    elif dialect.always_modalities:
        fields["modalities"] = ["text"]
    return fields


def _messages(request: Request, dialect: Dialect) -> list[dict[str, Any]]:
    if request.prompt_ids is not None:
        raise DataError("a chat takes no token ids: send them through /v1/completions")
    return [_message(message, dialect) for message in request.messages]


def _message(message: Message, dialect: Dialect) -> dict[str, Any]:
    """Content as one string where there is only text, because not every server takes a list."""
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    if len(texts) == len(message.parts):
        return {"role": message.role, "content": "".join(texts)}
    return {"role": message.role, "content": [_part(part, dialect) for part in message.parts]}


def _part(part: Part, dialect: Dialect) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if part.kind == "audio" and dialect.audio_part == "input_audio":
        audio = {"data": b64encode(part.data).decode(), "format": _audio_format(part.mime)}
        return {"type": "input_audio", "input_audio": audio}
    return {"type": f"{part.kind}_url", f"{part.kind}_url": {"url": data_url(part)}}


def data_url(media: Media) -> str:
    """The whole file in a URL."""
    return f"data:{media.mime};base64,{b64encode(media.data).decode()}"


def _audio_format(mime: str) -> str:
    if mime not in _AUDIO_FORMATS:
        raise DataError(f"cannot send audio of type {mime!r} as input_audio: convert it to WAV, MP3, FLAC or Ogg")
    return _AUDIO_FORMATS[mime]


# --- JSON -> events ----------------------------------------------------------------------------------------------
# gc=False: these structs cannot form cycles, and there is one tree of them per token.


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    audio_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Audio(msgspec.Struct, gc=False):
    data: str | None = None
    transcript: str | None = None


class _Delta(msgspec.Struct, gc=False):
    """A streamed delta or a whole message: the same fields."""

    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    audio: _Audio | None = None


class _Alternative(msgspec.Struct, gc=False):
    token: str
    logprob: float


class _Scored(msgspec.Struct, gc=False):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Scored] | None = None


class _AudioMetadata(msgspec.Struct, gc=False):
    """vLLM-omni: what the audio of this choice is; the rate is there of files as well."""

    format: str | None = None
    sample_rate_hz: int | None = None

    @property
    def rate_of_samples_hz(self) -> int | None:
        """The rate of bare samples; None for a file, of which it would make samples."""
        is_bare = self.format in (None, "pcm")
        return self.sample_rate_hz if is_bare and (self.sample_rate_hz or 0) > 0 else None


class _Choice(msgspec.Struct, gc=False):
    audio_metadata: _AudioMetadata | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None  # of the completions route, in chunks and whole
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct, gc=False):
    """A chunk, a whole completion, or an error in either's place."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    modality: str | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


_decode_json = msgspec.json.Decoder(_Chunk).decode
_TEXT = EventKind.TEXT  # the look-up in the enumeration costs more than the event


def decode_chunk(data: bytes, time_s: float, dialect: Dialect) -> list[Event]:
    """The events of one streamed chunk; an ERROR event comes alone.

    Raises:
        WireError: `data` is not a chunk.
    """
    if dialect.api == "generate":
        return _decode_generated(generate.decode_line, data, time_s)
    try:
        chunk = _decode_json(data)
    except ValueError as exc:  # bad JSON, wrong types, bad UTF-8
        raise _unreadable(data, exc) from exc
    if dialect.api == "completions":
        return _completion_events(chunk, time_s)
    if text := _text_alone(chunk):
        return [Event(_TEXT, time_s, text)]
    events: list[Event] = []
    for choice in chunk.choices or ():
        if choice.delta is not None:
            if chunk.modality == "audio":  # vLLM-omni: the content is a WAV file or bare samples in base64
                choice.delta = _Delta(audio=_Audio(data=choice.delta.content))
            events += _delta_events(choice.delta, time_s, dialect.transcript_is_text, choice.audio_metadata)
        if choice.logprobs is not None:
            events += _logprob_events(choice.logprobs, time_s)
        if choice.finish_reason is not None:
            events.append(Event(EventKind.FINISH, time_s, choice.finish_reason))
    return _closed(chunk, events, time_s)


def decode_reply(data: bytes, time_s: float, dialect: Dialect) -> list[Event]:
    """The events of a whole (not streamed) completion, all at `time_s`.

    Raises:
        WireError: `data` is not a completion.
    """
    if dialect.api == "generate":
        return _decode_generated(generate.decode_outputs, data, time_s)
    chunk = _decode(data)
    if dialect.api == "completions":
        return _completion_events(chunk, time_s)
    events: list[Event] = []
    for choice in chunk.choices or ():
        if choice.message is not None:
            events += _delta_events(choice.message, time_s, not choice.message.content)
        if choice.logprobs is not None:
            events += _logprob_events(choice.logprobs, time_s)
        if choice.finish_reason is not None:
            events.append(Event(EventKind.FINISH, time_s, choice.finish_reason))
    return _closed(chunk, events, time_s)


def _text_alone(chunk: _Chunk) -> str | None:
    """The text of a chunk that holds one delta and nothing else, as nearly all do: the one thing that must be fast."""
    choices = chunk.choices
    if not choices or len(choices) > 1 or chunk.usage is not None or chunk.modality == "audio":
        return None
    if chunk.error is not None or chunk.object == "error":
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.finish_reason is not None or choice.logprobs is not None:
        return None
    if delta.reasoning or delta.reasoning_content or delta.tool_calls or delta.audio is not None:
        return None
    return delta.content


def _completion_events(chunk: _Chunk, time_s: float) -> list[Event]:
    """Of `/v1/completions`, where chunks and whole replies have one form."""
    events: list[Event] = []
    for choice in chunk.choices or ():
        if choice.text:
            events.append(Event(_TEXT, time_s, choice.text))
        if choice.finish_reason is not None:
            events.append(Event(EventKind.FINISH, time_s, choice.finish_reason))
    return _closed(chunk, events, time_s)


def _decode(data: bytes) -> _Chunk:
    try:
        return _decode_json(data)
    except ValueError as exc:  # bad JSON, wrong types, bad UTF-8
        raise _unreadable(data, exc) from exc


def _decode_generated(
    decode: Callable[[bytes, float], tuple[list[Event], Any]], data: bytes, time_s: float
) -> list[Event]:
    try:
        events, error = decode(data, time_s)
    except ValueError as exc:
        raise _unreadable(data, exc) from exc
    return events if error is None else [Event(EventKind.ERROR, time_s, shorten(_message_text(error)))]


def _unreadable(data: bytes, exc: ValueError) -> WireError:
    return WireError(f"{exc} in {shorten(data.decode('utf-8', 'replace'), 200)!r}")


def _delta_events(
    delta: _Delta, time_s: float, transcript_is_text: bool, metadata: _AudioMetadata | None = None
) -> list[Event]:
    """What a delta generated; a role alone where it generated nothing."""
    events: list[Event] = []
    if reasoning := delta.reasoning or delta.reasoning_content:  # some servers send both, with the same text
        events.append(Event(EventKind.REASONING, time_s, reasoning))
    if delta.content:
        events.append(Event(EventKind.TEXT, time_s, delta.content))
    if delta.tool_calls and (call := "".join(_tool_texts(delta.tool_calls))):
        events.append(Event(EventKind.TOOL_CALL, time_s, call))
    if delta.audio is not None:
        rate_hz = metadata.rate_of_samples_hz if metadata is not None else None
        events += _audio_events(delta.audio, time_s, transcript_is_text, rate_hz)
    if not events and delta.role:
        events.append(Event(EventKind.ROLE, time_s, delta.role))
    return events


def _logprob_events(logprobs: _Logprobs, time_s: float) -> list[Event]:
    if not logprobs.content:
        return []
    scored = tuple(
        TokenLogprob(each.token, each.logprob, tuple((other.token, other.logprob) for other in each.top_logprobs or ()))
        for each in logprobs.content
    )
    return [Event(EventKind.LOGPROBS, time_s, logprobs=scored)]


def _tool_texts(calls: list[_ToolCall]) -> Iterator[str]:
    for call in calls:
        if call.function is not None:
            yield call.function.name or ""
            yield call.function.arguments or ""


def _audio_events(audio: _Audio, time_s: float, transcript_is_text: bool, rate_hz: int | None) -> Iterator[Event]:
    if audio.transcript and transcript_is_text:
        yield Event(EventKind.TEXT, time_s, audio.transcript)
    if audio.data:
        try:
            data = binascii.a2b_base64(audio.data, strict_mode=True)
        except ValueError as exc:
            raise WireError(f"audio is not base64: {exc}") from exc
        yield Event(EventKind.AUDIO, time_s, audio=data, sample_rate_hz=rate_hz)


def _closed(chunk: _Chunk, events: list[Event], time_s: float) -> list[Event]:
    """`events` with the chunk's usage at the end, or the chunk's error instead."""
    if chunk.error is not None or chunk.object == "error":
        error = chunk.error if chunk.error is not None else chunk.message
        return [Event(EventKind.ERROR, time_s, shorten(_message_text(error)))]
    if chunk.usage is not None:
        events.append(Event(EventKind.USAGE, time_s, usage=_usage(chunk.usage)))
    return events


def _usage(usage: _Usage) -> Usage:
    read, made = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        read.cached_tokens if read else None,
        made.audio_tokens if made else None,
    )


# --- Error bodies ------------------------------------------------------------------------------------------------


def error_text(body: bytes) -> str:
    """What an error response says: the envelope's message, else the start of the body; at most 500 characters."""
    try:
        content = msgspec.json.decode(body)
    except ValueError:
        return shorten(body.decode("utf-8", "replace"))
    return shorten(_message_text(content))


def _message_text(error: Any) -> str:
    """The message in the common envelopes: `error.message` (OpenAI), `message`, `detail` (FastAPI)."""
    while isinstance(error, dict):
        inner = next((error[key] for key in ("error", "message", "detail") if error.get(key)), None)
        if inner is None:
            break
        error = inner
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()


def shorten(text: str, limit: int = MAX_ERROR_CHARS) -> str:
    """One line of at most `limit` characters."""
    return " ".join(text[: 4 * limit].split())[:limit]
