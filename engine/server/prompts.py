"""Texts and conversations of a request to token ids."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.config import AudioBatching
from engine.errors import InvalidRequest
from engine.inputs.chat import PromptOptions, Segment, build_prompt, encode_prompt, media_parts
from engine.inputs.media import Preprocessed
from engine.inputs.messages import ChatMessage, MediaPart
from engine.inputs.tokenizer import Tokenizer
from engine.server.jsonbody import quoted, refused
from engine.server.media import check_parts, media_inputs, media_tokens
from engine.server.plan import PromptInput, Serving

_MAX_KWARG_CHARS = 256
_REASONING_EFFORTS = ("none", "low", "medium", "high")


class PromptFields(Protocol):
    """Fields of a body that shape its chat prompt."""

    @property
    def tools(self) -> list[dict[str, Any]] | None: ...

    @property
    def tool_choice(self) -> str | dict[str, Any] | None: ...

    @property
    def chat_template_kwargs(self) -> dict[str, Any] | None: ...

    @property
    def reasoning_effort(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class PromptChoices:
    """What a request chooses about its chat prompt."""

    thinking: bool
    tools: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, fields: PromptFields, serving: Serving) -> PromptChoices:
        """Check the fields.

        Raises:
            InvalidRequest: tools are to be called, or a value is not among those accepted.
        """
        effort = fields.reasoning_effort
        if effort is not None and effort not in _REASONING_EFFORTS:
            accepted = ", ".join(_REASONING_EFFORTS)
            message = f"reasoning_effort must be one of {accepted}, got {quoted(effort)}"
            raise InvalidRequest(message, param="reasoning_effort")
        kwargs = fields.chat_template_kwargs or {}
        thinking = _enable_thinking(kwargs, serving.template_kwargs) or effort not in (None, "none")
        return cls(thinking, _tools(fields.tools or [], fields.tool_choice))


@dataclass(frozen=True, slots=True)
class PromptDraft:
    """A rendered conversation whose media is still to be decoded; `media` are its parts in reading order."""

    segments: tuple[Segment, ...]
    media: tuple[MediaPart, ...]
    tokenizer: Tokenizer
    audio_batching: AudioBatching

    def encode(self, media: Sequence[Preprocessed]) -> PromptInput:
        """The prompt in ids, every medium expanded to its placeholders."""
        prompt = encode_prompt(self.segments, self.tokenizer, media_tokens(media))
        return PromptInput(prompt.ids, media_inputs(prompt, media, self.audio_batching))


def draft_prompt(
    messages: Sequence[ChatMessage],
    choices: PromptChoices,
    serving: Serving,
    *,
    add_generation_prompt: bool = True,
    max_tokens: int | None = None,
) -> PromptDraft:
    """The prompt of a conversation, as far as it is known without its media; `max_tokens` are those asked for.

    Raises:
        InvalidRequest: it cannot be rendered, is far longer than the context, or holds media that is not taken.
    """
    tokenizer = serving.need_tokenizer("chat")
    options = PromptOptions(choices.thinking, serving.system_default, add_generation_prompt, choices.tools)
    segments = build_prompt(messages, options)
    num_chars = sum(len(segment) for segment in segments if isinstance(segment, str))
    _check_chars(num_chars, tokenizer, serving.info.max_model_len, "messages", max_tokens)
    media = media_parts(segments)
    check_parts(media, serving.info.modalities, serving.media_limits)
    return PromptDraft(segments, media, tokenizer, serving.info.audio_batching)


def encode_text(
    text: str, serving: Serving, *, add_special_tokens: bool | None = None, max_tokens: int | None = None
) -> list[int]:
    """Ids of a raw prompt: control tokens in it are meant, the whole of it is the client's.

    The tokenizer's own control tokens are added unless `add_special_tokens` is false.

    Raises:
        InvalidRequest: the server has no tokenizer, or the text is far longer than the context.
    """
    tokenizer = serving.need_tokenizer("a text prompt")
    _check_chars(len(text), tokenizer, serving.info.max_model_len, "prompt", max_tokens)
    return tokenizer.encode(text, special=True, add=add_special_tokens is not False)


def context_exceeded(context: int, num_output: int, num_prompt: str, param: str) -> InvalidRequest:
    """The error that clients look for in order to shorten and retry."""
    return InvalidRequest(
        f"This model's maximum context length is {context} tokens. However, you requested {num_output} output tokens "
        f"and your prompt contains {num_prompt} input tokens. Please reduce the length of the input prompt or the "
        "number of requested output tokens.",
        param=param,
        code="context_length_exceeded",
    )


def _check_chars(num_chars: int, tokenizer: Tokenizer, context: int, param: str, max_tokens: int | None) -> None:
    """Refuse a text that cannot fit before any work is put into it."""
    at_least = math.ceil(num_chars / tokenizer.max_token_chars)
    if at_least > context:
        raise context_exceeded(context, 1 if max_tokens is None else max_tokens, f"at least {at_least}", param)


def _enable_thinking(kwargs: Mapping[str, Any], others: Collection[str]) -> bool:
    """Whether the template's one switch is on; what the operator listed besides is checked and has no effect."""
    for name, value in kwargs.items():
        param = f"chat_template_kwargs.{name[:100]}"
        if name == "enable_thinking":
            if not isinstance(value, bool):
                raise InvalidRequest(f"{param} must be true or false, got {quoted(value)}", param=param)
        elif name not in others:
            accepted = ", ".join(("enable_thinking", *sorted(others)))
            message = f"chat_template_kwargs takes only {accepted}, got {quoted(name)}"
            raise refused(param, message, code="forbidden_parameter")
        elif not isinstance(value, (bool, int, float)) and not _is_short_text(value):
            message = f"{param} must be true or false, a number, or a string of at most {_MAX_KWARG_CHARS} characters"
            raise InvalidRequest(message, param=param)
    return bool(kwargs.get("enable_thinking"))


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_KWARG_CHARS


def _tools(tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Tools that the prompt describes; none of them is called."""
    if tools and choice != "none":
        raise refused("tools", 'tools are not called by this server; send tool_choice "none" to only describe them')
    if not tools and choice not in (None, "none", "auto"):
        raise refused("tool_choice", "tool_choice needs tools, which are not called by this server")
    return tools
