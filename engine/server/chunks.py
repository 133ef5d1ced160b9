"""Server-sent events of a stream; what is the same in every chunk is encoded once."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Protocol

import msgspec

from engine.server.choice import Delta
from engine.server.errors import ApiError
from engine.server.plan import Plan
from engine.server.replies import AUDIO_LIFETIME_S, audio_id
from engine.server.scores import chat_logprobs, completion_logprobs
from engine.server.usage import Usage

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class Chunks(Protocol):
    """Writes the events of one route."""

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """Events for one delta, possibly none; `usage` goes into each of them."""

    def usage(self, usage: Usage) -> bytes:
        """The event with the final counts."""


def error_event(error: ApiError) -> bytes:
    """A failure after the stream has begun."""
    return b"data: " + error.envelope() + b"\n\n"


class _Frame:
    """`data: {"id":...` up to the choices, and what closes an event."""

    def __init__(self, reply_id: str, kind: str, created: int, model: str) -> None:
        head = _encode({"id": reply_id, "object": kind, "created": created, "model": model})
        self._head = b"data: " + head[:-1] + b',"choices":['

    def event(self, choice: bytes, usage: Usage | None) -> bytes:
        counts = b"" if usage is None else b',"usage":' + _encode(usage)
        return self._head + choice + b"]" + counts + b"}\n\n"


class ChatChunks:
    """Chunks of a chat stream: role chunk with the first token, content, finish reason on the last one."""

    def __init__(self, plan: Plan, reply_id: str, created: int) -> None:
        self._frame = _Frame(reply_id, "chat.completion.chunk", created, plan.model)
        self._has_role: set[int] = set()

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """The role chunk when it is the choice's first delta, and a chunk unless there is nothing to show."""
        events = b""
        if delta.index not in self._has_role:
            self._has_role.add(delta.index)
            role = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
            events = self._frame.event(role % delta.index, usage)
        if delta.text or delta.finish is not None:
            events += self._frame.event(self._choice(delta), usage)
        return events

    def usage(self, usage: Usage) -> bytes:
        return self._frame.event(b"", usage)

    def _choice(self, delta: Delta) -> bytes:
        content = b'{"content":%b}' % _encode(delta.text) if delta.text else b"{}"
        return _chat_choice(delta, content)


def chat_chunks(plan: Plan, reply_id: str, created: int) -> Chunks:
    """What writes the stream of a chat."""
    return ChatChunks(plan, reply_id, created) if plan.speech is None else SpokenChunks(plan, reply_id, created)


class SpokenChunks:
    """Chunks of a chat that is spoken: text as always or not at all, and in chunks of their own audio and transcript.

    The finish reason is on the last audio chunk: speech ends after its text.
    """

    def __init__(self, plan: Plan, reply_id: str, created: int) -> None:
        assert plan.speech is not None
        self._frame = _Frame(reply_id, "chat.completion.chunk", created, plan.model)
        self._text = ChatChunks(plan, reply_id, created)
        self._shows_text = plan.speech.shows_text
        self._id = audio_id(reply_id)
        self._expires_at = created + AUDIO_LIFETIME_S

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """Role and content as in any chat, then what there is of speech."""
        shown = replace(delta, text=delta.text if self._shows_text else "", finish=None)
        events = self._text.delta(shown, usage)
        if delta.text:
            # Scores go with the text; where it is not shown, with its transcript.
            entries = [] if self._shows_text else delta.entries
            events += self._audio(Delta(delta.index, entries=entries), usage, {"transcript": delta.text})
        if delta.pcm:
            events += self._audio(Delta(delta.index), usage, {"data": b64encode(delta.pcm).decode()})
        if delta.finish is not None:
            ended = replace(delta, entries=[] if delta.text else delta.entries)
            events += self._audio(ended, usage, {"expires_at": self._expires_at})
        return events

    def usage(self, usage: Usage) -> bytes:
        return self._frame.event(b"", usage)

    def _audio(self, delta: Delta, usage: Usage | None, fields: dict[str, object]) -> bytes:
        content = _encode({"audio": {"id": self._id} | fields})
        return self._frame.event(_chat_choice(delta, content), usage)


def _chat_choice(delta: Delta, content: bytes) -> bytes:
    logprobs = _encode(chat_logprobs(delta.entries)) if delta.entries else b"null"
    return b'{"index":%d,"delta":%b,"logprobs":%b' % (delta.index, content, logprobs) + _finish(delta)


class CompletionChunks:
    """Chunks of a completion stream: text only, without a role."""

    def __init__(self, plan: Plan, reply_id: str, created: int) -> None:
        self._frame = _Frame(reply_id, "text_completion", created, plan.model)
        self._returns_ids = plan.return_token_ids

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """A chunk unless there is nothing to show."""
        if not (delta.text or delta.finish is not None or self._returns_ids):
            return b""
        return self._frame.event(self._choice(delta), usage)

    def usage(self, usage: Usage) -> bytes:
        return self._frame.event(b"", usage)

    def _choice(self, delta: Delta) -> bytes:
        logprobs = _encode(completion_logprobs(delta.entries)) if delta.entries else b"null"
        ids = b',"token_ids":' + _encode(delta.token_ids) if self._returns_ids else b""
        head = b'{"index":%d,"text":%b%b,"logprobs":%b' % (delta.index, _encode(delta.text), ids, logprobs)
        return head + _finish(delta)


def _finish(delta: Delta) -> bytes:
    if delta.finish is None:
        return b',"finish_reason":null}'
    return b',"finish_reason":"%b","stop_reason":%b}' % (delta.finish.encode(), _encode(delta.stop_reason))
