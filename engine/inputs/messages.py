"""A conversation as the prompt builder sees it, after the HTTP edge has checked it and before any media is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from engine.core.request import MediaKind

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text, taken verbatim; control tokens spelled in it stay text."""

    text: str


@dataclass(frozen=True, slots=True)
class MediaPart:
    """An image, audio clip or video, named by a `data:` or http(s) URL; `where` is its place in the request.

    With `clip_hz` it is a reference clip for the talker, wanted as samples at that rate.
    """

    kind: MediaKind
    url: str
    where: str = field(default="messages", compare=False)
    clip_hz: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant turn made; `arguments` is JSON text or the decoded object."""

    name: str
    arguments: str | dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. `reasoning` is the assistant's separate reasoning text, where the client sent it."""

    role: Role
    parts: tuple[TextPart | MediaPart, ...]
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
