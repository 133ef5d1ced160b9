"""The JSON body of an answer that is sent whole."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from engine.server.audio_file import encode_audio
from engine.server.choice import Delta, Finish
from engine.server.logprobs import TokenEntry
from engine.server.plan import Plan, SpeechPlan
from engine.server.scores import ChatLogprobs, CompletionLogprobs, chat_logprobs, completion_logprobs
from engine.server.usage import Usage

AUDIO_LIFETIME_S = 24 * 3600  # the field is required; nothing is kept here, clients keep the data


@dataclass(slots=True)
class Collected:
    """The deltas of one choice put together."""

    index: int
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    entries: list[TokenEntry] = field(default_factory=list)
    finish: Finish | None = None
    stop_reason: str | int | None = None
    pcm: bytearray = field(default_factory=bytearray)

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.token_ids += delta.token_ids
        self.entries += delta.entries
        self.pcm += delta.pcm
        self.finish, self.stop_reason = delta.finish, delta.stop_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)


class AudioReply(msgspec.Struct):
    id: str
    data: str
    expires_at: int
    transcript: str


class ChatMessageReply(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str | None
    audio: AudioReply | msgspec.UnsetType = msgspec.UNSET


class ChatChoiceReply(msgspec.Struct):
    index: int
    message: ChatMessageReply
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None
    stop_reason: str | int | None


class CompletionChoiceReply(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None
    stop_reason: str | int | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class Reply(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoiceReply] | list[CompletionChoiceReply]
    usage: Usage


class WriteReply(Protocol):
    """Makes the body of one route's answer."""

    def __call__(
        self, plan: Plan, reply_id: str, created: int, choices: Sequence[Collected], usage: Usage
    ) -> bytes: ...


def chat_reply(plan: Plan, reply_id: str, created: int, choices: Sequence[Collected], usage: Usage) -> bytes:
    """The body of a chat completion; slow where there is speech to encode."""
    scored = plan.sampling.logprobs is not None
    replies = [
        ChatChoiceReply(
            choice.index,
            _message(plan.speech, reply_id, created, choice),
            chat_logprobs(choice.entries) if scored else None,
            choice.finish,
            choice.stop_reason,
        )
        for choice in choices
    ]
    return msgspec.json.encode(Reply(reply_id, "chat.completion", created, plan.model, replies, usage))


def _message(speech: SpeechPlan | None, reply_id: str, created: int, choice: Collected) -> ChatMessageReply:
    if speech is None:
        return ChatMessageReply(content=choice.text)
    file = encode_audio(bytes(choice.pcm), speech.sample_rate, speech.format)
    audio = AudioReply(audio_id(reply_id), b64encode(file).decode(), created + AUDIO_LIFETIME_S, choice.text)
    return ChatMessageReply(content=choice.text if speech.shows_text else None, audio=audio)


def audio_id(reply_id: str) -> str:
    """The id of an answer's speech."""
    return "audio-" + reply_id.rpartition("-")[2]


def completion_reply(plan: Plan, reply_id: str, created: int, choices: Sequence[Collected], usage: Usage) -> bytes:
    """The body of a completion."""
    scored = plan.sampling.logprobs is not None
    replies = [
        CompletionChoiceReply(
            choice.index,
            choice.text,
            completion_logprobs(choice.entries) if scored else None,
            choice.finish,
            choice.stop_reason,
            choice.token_ids if plan.return_token_ids else msgspec.UNSET,
        )
        for choice in choices
    ]
    return msgspec.json.encode(Reply(reply_id, "text_completion", created, plan.model, replies, usage))
