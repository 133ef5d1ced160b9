"""Bodies of POST /v1/audio/speech to plans, and what chats say about speech."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from engine.config import SpeechInfo
from engine.core.speech import ReferenceClip
from engine.errors import InvalidRequest
from engine.inputs.instructions import CAPTION_FIELDS, caption_fields
from engine.inputs.media import Preprocessed
from engine.inputs.messages import MediaPart
from engine.server.audio_file import AudioFormat, check_format
from engine.server.jsonbody import decode_body, quoted, refused
from engine.server.media import NeedsMedia
from engine.server.plan import Serving, SpeechPlan
from engine.server.sampling import Range, check_model, check_range

MAX_CHARS = 4096
MAX_STEPS = 20_000
MAX_INSTRUCTIONS = 1024
MAX_TRANSCRIPT = 1024
SPEAKER_WIDTH = 192
MAX_SPEAKER = 1000.0  # CAM++ gives single digits; far larger numbers overflow in the talker
DEFAULT_VOICE = "default"  # always accepted: many clients cannot leave the voice out

LANGUAGES = ("auto", "zh", "en")  # what the talker was trained on; it hears from the text which one it is

StreamFormat = Literal["audio", "sse"]

MAX_TEMPERATURE = 2.0


class SpokenBody(msgspec.Struct):
    """`audio` of a chat request; behind `format` are fields that only the route for speech takes."""

    voice: str | dict[str, Any] | None = None
    format: str | None = None
    instructions: Any = None
    language: Any = None
    ref_audio: Any = None
    ref_text: Any = None
    speaker_embedding: Any = None
    speed: Any = None


NOT_IN_CHATS = SpokenBody.__struct_fields__[2:]


class SpeechBody(msgspec.Struct, kw_only=True):
    """POST /v1/audio/speech."""

    input: str
    model: str | None = None
    voice: str | dict[str, Any] | None = None
    speaker: str | None = None
    response_format: str | None = None
    speed: float | None = None
    instructions: str | dict[str, Any] | None = None
    language: str | None = None
    stream: bool | None = None
    stream_format: str | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    speaker_embedding: list[float] | None = None
    temperature: float | None = None
    ref_audio: str | None = None
    ref_text: str | None = None


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A checked request for speech; `stream` None is one file at the end, `clip` is whose voice is copied."""

    text: str
    voice: str | None
    format: AudioFormat
    stream: StreamFormat | None
    speed: float
    seed: int
    instructions: str | None
    speaker: tuple[float, ...]
    max_steps: int | None
    temperature: float
    sample_rate: int
    clip: ReferenceClip | None = None


def plan_speech(body: bytes, serving: Serving) -> SpokenText | NeedsMedia[SpokenText]:
    """A speech request, checked, but for the reference clip that it may bring.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    request = decode_body(body, SpeechBody, serving.field_log)
    info = serving.need_speech("input")
    check_model(request.model, serving)
    stream = _stream_format(request)
    speed = _speed(request, stream)
    _check_language(request.language)
    check_range("seed", request.seed, Range(-(2**63), 2**64 - 1))
    check_range("max_new_tokens", request.max_new_tokens, Range(1, MAX_STEPS))
    check_range("temperature", request.temperature, Range(0.0, MAX_TEMPERATURE))
    clip = _reference_clip(request, info)
    spoken = SpokenText(
        text=_text(request.input),
        voice=check_voice(request.voice if request.voice is not None else request.speaker, info, "voice"),
        format=check_format(request.response_format or "wav", "response_format", stream=stream is not None),
        stream=stream,
        speed=speed,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        instructions=_instructions(request.instructions),
        speaker=_speaker(request.speaker_embedding),
        max_steps=request.max_new_tokens,
        temperature=request.temperature or 0.0,
        sample_rate=info.sample_rate,
    )

    def finish(media: Sequence[Preprocessed]) -> SpokenText:
        samples, samples_16k = media[0].arrays
        found = ReferenceClip(samples.data, samples_16k.data, samples.digest, request.ref_text or None)
        return replace(spoken, clip=found)

    return spoken if clip is None else NeedsMedia((clip,), finish)


def chat_speech(asked: SpokenBody, info: SpeechInfo, *, stream: bool, shows_text: bool) -> SpeechPlan:
    """How a chat's answer is to be spoken.

    Raises:
        InvalidRequest: there is no such voice, or no such format, or a field is for the other route.
    """
    for field in NOT_IN_CHATS:
        if getattr(asked, field) is not None:
            raise refused(f"audio.{field}", f"audio.{field} is taken by POST /v1/audio/speech only; leave it out")
    name = asked.format or ("pcm16" if stream else "wav")
    if stream and name not in ("pcm16", "pcm"):
        message = f"audio.format {quoted(name)}: a streamed chat has its speech as pcm16"
        raise InvalidRequest(message, param="audio.format")
    fmt = check_format(name, "audio.format", stream=stream)
    return SpeechPlan(check_voice(asked.voice, info, "audio.voice"), fmt, info.sample_rate, shows_text)


def check_voice(asked: object, info: SpeechInfo, param: str) -> str | None:
    """The preset that was asked for by name or as `{"id": name}`; None is the default one.

    Raises:
        InvalidRequest: there is no such voice.
    """
    name = asked.get("id") if isinstance(asked, dict) else asked
    if name is None and asked is None:
        return None
    if name == DEFAULT_VOICE:
        return None
    if isinstance(name, str) and name in info.voices:
        return name
    known = ", ".join((DEFAULT_VOICE, *info.voices))
    raise InvalidRequest(f"{param} {quoted(name)} is not known here; voices are: {known}", param=param)


def _reference_clip(request: SpeechBody, info: SpeechInfo) -> MediaPart | None:
    """The clip that is to be fetched and decoded."""
    if request.ref_audio is None:
        if request.ref_text is not None:
            raise InvalidRequest("ref_text is what is said in ref_audio, which is missing", param="ref_text")
        return None
    if request.voice is not None or request.speaker is not None:
        raise InvalidRequest("ref_audio stands in place of a voice; send one of the two", param="ref_audio")
    if request.ref_text is not None and len(request.ref_text) > MAX_TRANSCRIPT:
        message = f"ref_text has {len(request.ref_text)} characters, at most {MAX_TRANSCRIPT} are read"
        raise InvalidRequest(message, param="ref_text")
    if not request.ref_audio.startswith("data:"):
        message = "ref_audio must be a data: URL, for example data:audio/wav;base64,UklGR..."
        raise InvalidRequest(message, param="ref_audio", code="media_url_not_allowed")
    return MediaPart("audio", request.ref_audio, "ref_audio", clip_hz=info.sample_rate)


def _stream_format(request: SpeechBody) -> StreamFormat | None:
    asked = request.stream_format
    if asked is None:
        return "sse" if request.stream else None
    if asked == "audio":
        return None if request.stream is False else "audio"
    if asked == "sse":
        return "sse"
    raise InvalidRequest(f"stream_format must be audio or sse, got {quoted(asked)}", param="stream_format")


def _speed(request: SpeechBody, stream: StreamFormat | None) -> float:
    check_range("speed", request.speed, Range(0.25, 4.0))
    speed = 1.0 if request.speed is None else request.speed
    if stream is not None and speed != 1.0:
        raise InvalidRequest("speed other than 1 is for answers that are not streamed", param="speed")
    return speed


def _check_language(code: str | None) -> None:
    """The talker goes by the text; a code may only say what it does anyway."""
    if code is not None and re.split("[-_]", code.lower())[0] not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise InvalidRequest(f"language {quoted(code)} is not spoken here; languages are: {known}", param="language")


def _text(text: str) -> str:
    if not text.strip():
        raise InvalidRequest("input is empty: there is nothing to say", param="input")
    if len(text) > MAX_CHARS:
        raise InvalidRequest(f"input has {len(text)} characters, at most {MAX_CHARS} are spoken", param="input")
    return text


def _instructions(asked: str | dict[str, Any] | None) -> str | None:
    """The words, or the JSON of a caption's fields; an object may also come as text, as other servers want it."""
    text = msgspec.json.encode(asked).decode() if isinstance(asked, dict) else asked
    if text is not None and len(text) > MAX_INSTRUCTIONS:
        message = f"instructions have {len(text)} characters, at most {MAX_INSTRUCTIONS} are read"
        raise InvalidRequest(message, param="instructions")
    if text is None or not text.strip():
        return None
    if unknown := (caption_fields(text) or {}).keys() - set(CAPTION_FIELDS):
        known = ", ".join(CAPTION_FIELDS)
        message = f"instructions: there is no field {quoted(min(unknown))}; fields are: {known}"
        raise InvalidRequest(message, param="instructions")
    return text


def _speaker(vector: list[float] | None) -> tuple[float, ...]:
    if vector is not None and len(vector) != SPEAKER_WIDTH:
        message = f"speaker_embedding must have {SPEAKER_WIDTH} numbers, got {len(vector)}"
        raise InvalidRequest(message, param="speaker_embedding")
    for value in vector or ():
        check_range("speaker_embedding", value, Range(-MAX_SPEAKER, MAX_SPEAKER))
    return tuple(vector or ())
