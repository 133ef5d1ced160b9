"""Messages of a chat request, as OpenAI's format has them, to a conversation for the prompt builder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from engine.errors import InvalidRequest
from engine.inputs.messages import ChatMessage, MediaPart, Role, TextPart, ToolCall
from engine.server.jsonbody import quoted, refused

MAX_MESSAGES = 1024
T = TypeVar("T")
AUDIO_FORMATS = ("wav", "mp3", "flac", "ogg")
PART_TYPES = ("text", "image_url", "input_audio", "audio_url", "video_url")
ROLES: dict[str, Role] = {
    **{"system": "system", "developer": "system"},
    **{"user": "user", "assistant": "assistant", "tool": "tool"},
}


class UrlSource(msgspec.Struct):
    url: str
    detail: str | None = None


class AudioSource(msgspec.Struct):
    data: str
    format: str


class PartBody(msgspec.Struct):
    type: str
    text: str | None = None
    image_url: UrlSource | None = None
    audio_url: UrlSource | None = None
    video_url: UrlSource | None = None
    input_audio: AudioSource | None = None


class FunctionBody(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class ToolCallBody(msgspec.Struct):
    function: FunctionBody


class MessageBody(msgspec.Struct):
    role: str
    content: str | list[PartBody] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    audio: Any = None


def conversation(messages: Sequence[MessageBody]) -> tuple[ChatMessage, ...]:
    """The messages, checked one by one.

    Raises:
        InvalidRequest: naming the message and the field at fault.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequest(f"messages must have 1 to {MAX_MESSAGES} entries, got {len(messages)}", param="messages")
    return tuple(_message(body, f"messages[{index}]") for index, body in enumerate(messages))


def _message(body: MessageBody, where: str) -> ChatMessage:
    role = ROLES.get(body.role)
    if role is None:
        accepted = ", ".join(ROLES)
        raise InvalidRequest(f"{where}.role must be one of {accepted}, got {quoted(body.role)}", param=f"{where}.role")
    if body.audio is not None:
        raise refused(f"{where}.audio", f"{where}.audio: audio of an earlier turn is not kept; send its transcript")
    if body.content is None and role != "assistant":
        message = f"{where}.content is required with role {body.role}"
        raise InvalidRequest(message, param=f"{where}.content", code="missing_field")
    reasoning = body.reasoning if body.reasoning is not None else body.reasoning_content
    calls = tuple(ToolCall(call.function.name, call.function.arguments) for call in body.tool_calls or ())
    return ChatMessage(role, tuple(_parts(body.content, where)), reasoning, calls)


def _parts(content: str | list[PartBody] | None, where: str) -> Iterator[TextPart | MediaPart]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for index, part in enumerate(content or ()):
        yield _part(part, f"{where}.content[{index}]")


def _part(part: PartBody, where: str) -> TextPart | MediaPart:
    if part.type == "text":
        return TextPart(_payload(part.text, f"{where}.text"))
    if part.type == "image_url":
        return MediaPart("image", _payload(part.image_url, f"{where}.image_url").url, where)
    if part.type == "audio_url":
        return MediaPart("audio", _payload(part.audio_url, f"{where}.audio_url").url, where)
    if part.type == "video_url":
        return MediaPart("video", _payload(part.video_url, f"{where}.video_url").url, where)
    if part.type == "input_audio":
        return _inline_audio(_payload(part.input_audio, f"{where}.input_audio"), where)
    if part.type == "file":
        raise refused(where, f"{where}: file parts are not supported")
    raise InvalidRequest(
        f"{where}.type must be one of {', '.join(PART_TYPES)}, got {quoted(part.type)}", param=f"{where}.type"
    )


def _inline_audio(source: AudioSource, where: str) -> MediaPart:
    if source.format not in AUDIO_FORMATS:
        param, formats = f"{where}.input_audio.format", ", ".join(AUDIO_FORMATS)
        raise InvalidRequest(f"{param} must be one of {formats}, got {quoted(source.format)}", param=param)
    return MediaPart("audio", f"data:audio/{source.format};base64,{source.data}", where)


def _payload(value: T | None, where: str) -> T:
    if value is None:
        raise InvalidRequest(f"{where} is required", param=where, code="missing_field")
    return value
