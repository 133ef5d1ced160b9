"""Messages to prompt: the released chat format, in segments that keep control tokens apart from text.

One builder serves every request. Turns follow the released text template (builder J), media parts stand inside the
turn as in the released multimodal processor (builder P). Control tokens and media exist only as segments of their
own, so a client that spells one in a message has written text and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from engine.core.request import MediaKind
from engine.errors import InvalidRequest
from engine.inputs.messages import ChatMessage, MediaPart, TextPart, ToolCall
from engine.inputs.tokenizer import Tokenizer

MING_SYSTEM = "你是一个友好的AI助手。"  # builder P's default sentence

# What the template itself writes as control tokens; `<think>` and `<tools>` are ordinary text to this model.
_CONTROL_TOKENS = (
    *("<role>", "</role>", "<|role_end|>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)
_CONTROL = re.compile("(" + "|".join(map(re.escape, _CONTROL_TOKENS)) + ")")

_TOOLS_HEAD = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_TOOLS_TAIL = """\
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
"""


@dataclass(frozen=True, slots=True)
class Control:
    """A special token that the template itself writes; it becomes one id."""

    token: str


@dataclass(frozen=True, slots=True)
class MediaSlot:
    """Where a media part stands in the prompt."""

    part: MediaPart


@dataclass(frozen=True, slots=True)
class Patches:
    """A run of placeholder tokens; `index` counts media parts, `frame` the frame pairs of a video."""

    kind: MediaKind
    count: int
    index: int
    frame: int = 0


Segment = str | Control | MediaSlot
Expanded = str | Control | Patches  # after each media slot got its placeholders

_PATCH_TOKEN: dict[MediaKind, str] = {"image": "<imagePatch>", "video": "<framePatch>", "audio": "<audioPatch>"}
_SLOT_TEXT: dict[MediaKind, str] = {"image": "<IMAGE>", "video": "<VIDEO>", "audio": "<AUDIO>"}


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What a request, or the operator, chooses about a prompt.

    `system_default` is the system sentence of conversations that bring none. `tools` are JSON schemas as sent.
    """

    thinking: bool = False
    system_default: str | None = None
    add_generation_prompt: bool = True
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class MediaTokens:
    """Placeholder tokens of one media part: a count for the image or clip, or for each frame pair of a video.

    `timestamps_s` has the time of each frame pair in seconds; images and audio have none.
    """

    counts: tuple[int, ...]
    timestamps_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Prompt positions [start, start + num_tokens) that one encoder chunk fills; `index`, `frame` as in `Patches`."""

    kind: MediaKind
    index: int
    frame: int
    start: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in ids, with its placeholders in reading order."""

    ids: tuple[int, ...]
    slots: tuple[Placeholder, ...] = ()


def build_prompt(messages: Sequence[ChatMessage], options: PromptOptions) -> tuple[Segment, ...]:
    """The prompt of a conversation; neighbouring text is one segment, as it is tokenized across part borders.

    Raises:
        InvalidRequest: there are no messages, or media stands outside a user's turn.
    """
    if not messages:
        raise InvalidRequest("messages must have at least one entry", param="messages")
    return tuple(_join_text(_conversation(messages, options)))


def media_parts(segments: Iterable[Segment]) -> tuple[MediaPart, ...]:
    """The media of a prompt in reading order, which is the order `encode_prompt` wants their sizes in."""
    return tuple(segment.part for segment in segments if isinstance(segment, MediaSlot))


def encode_prompt(segments: Sequence[Segment], tokenizer: Tokenizer, media: Sequence[MediaTokens] = ()) -> Prompt:
    """Ids of a prompt; `media` has the size of each media part, in reading order.

    Raises:
        ConfigError: the tokenizer lacks a control token.
    """
    assert len(media) == len(media_parts(segments)), "each media part needs its size"
    ids: list[int] = []
    slots: list[Placeholder] = []
    for segment in _join_text(_expand(segments, media)):
        if isinstance(segment, str):
            ids += tokenizer.encode(segment)
        elif isinstance(segment, Control):
            ids.append(tokenizer.token_id(segment.token))
        else:
            slots.append(Placeholder(segment.kind, segment.index, segment.frame, len(ids), segment.count))
            ids += [tokenizer.token_id(_PATCH_TOKEN[segment.kind])] * segment.count
    return Prompt(tuple(ids), tuple(slots))


def render_string(segments: Iterable[Segment | Patches]) -> str:
    """A prompt as one string, media as the released upper-case markers."""
    return "".join(map(_as_string, segments))


def expand_media(kind: MediaKind, size: MediaTokens, index: int = 0) -> Iterator[Expanded]:
    """What stands in the prompt for one media part, as released; an image ends with a newline, the others do not."""
    if kind == "audio":
        yield from (Control("<audio>"), Patches("audio", size.counts[0], index), Control("</audio>"))
    elif kind == "image":
        yield from (Control("<image>"), Patches("image", size.counts[0], index), Control("</image>"), "\n")
    else:
        yield Control("<video>")
        for frame, (time_s, count) in enumerate(zip(size.timestamps_s, size.counts, strict=True)):
            yield f"<{time_s:.1f} seconds>"  # ordinary text
            yield from (Control("<image>"), Patches("video", count, index, frame), Control("</image>"))
        yield Control("</video>")


def _expand(segments: Sequence[Segment], media: Sequence[MediaTokens]) -> Iterator[Expanded]:
    index = 0
    for segment in segments:
        if isinstance(segment, MediaSlot):
            yield from expand_media(segment.part.kind, media[index], index)
            index += 1
        else:
            yield segment


def _as_string(segment: Segment | Patches) -> str:
    if isinstance(segment, str):
        return segment
    if isinstance(segment, Control):
        return segment.token
    if isinstance(segment, MediaSlot):
        return _SLOT_TEXT[segment.part.kind]
    return _PATCH_TOKEN[segment.kind] * segment.count


def _join_text(segments: Iterable[Any]) -> Iterator[Any]:
    """Neighbouring strings as one, empty ones gone, everything else as it was."""
    for is_text, run in groupby(segments, key=lambda segment: isinstance(segment, str)):
        if not is_text:
            yield from run
        elif text := "".join(run):
            yield text


def _markup(text: str) -> Iterator[Segment]:
    """Text of the template's own, whose control tokens are meant."""
    for piece in _CONTROL.split(text):
        yield Control(piece) if piece in _CONTROL_TOKENS else piece


def _conversation(messages: Sequence[ChatMessage], options: PromptOptions) -> Iterator[Segment]:
    yield from _system_turn(messages[0], options)
    last_query = _last_query(messages)
    for index, message in enumerate(messages):
        if message.role == "user":
            yield from _turn("HUMAN", _user_parts(message))
        elif message.role == "assistant":
            yield from _turn("ASSISTANT", _assistant_parts(message, show_reasoning=index > last_query))
        elif message.role == "tool":
            yield from _tool_result(messages, index)
        elif index > 0:  # a leading system message is in the first turn already
            yield from _turn("SYSTEM", [_text(message)])
    if options.add_generation_prompt:
        yield from _markup("<role>ASSISTANT</role>")


def _turn(name: str, body: Iterable[Segment]) -> Iterator[Segment]:
    yield from _markup(f"<role>{name}</role>")
    yield from body
    yield Control("<|role_end|>")


def _system_turn(first: ChatMessage, options: PromptOptions) -> Iterator[Segment]:
    """The turn that every prompt starts with, whether or not the conversation has a system message."""
    sentence = _text(first) if first.role == "system" else options.system_default
    yield from _markup("<role>SYSTEM</role>")
    if sentence is not None:
        yield sentence + "\n\n"
    if options.tools:
        yield from _markup(_TOOLS_HEAD)
        yield "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in options.tools)
        yield from _markup(_TOOLS_TAIL)
    yield f"detailed thinking {'on' if options.thinking else 'off'}"
    yield Control("<|role_end|>")


def _user_parts(message: ChatMessage) -> Iterator[Segment]:
    for part in message.parts:
        yield part.text if isinstance(part, TextPart) else MediaSlot(part)


def _text(message: ChatMessage) -> str:
    """The text of a message that must be text alone."""
    for part in message.parts:
        if isinstance(part, MediaPart):
            raise InvalidRequest(
                f"messages: {part.kind} content is only accepted in user messages, got it with role {message.role}",
                param="messages",
            )
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _assistant_parts(message: ChatMessage, *, show_reasoning: bool) -> Iterator[Segment]:
    """An answer; reasoning is only repeated to the model while the question it belongs to is still open."""
    reasoning, content = _split_reasoning(message)
    if show_reasoning and reasoning:
        reasoning = reasoning.strip("\n")
        yield f"\n<think>\n{reasoning}\n</think>\n\n" + content.lstrip("\n")
    else:
        yield content
    for index, call in enumerate(message.tool_calls):
        if index > 0 or content:
            yield "\n"
        yield from _tool_call(call)


def _split_reasoning(message: ChatMessage) -> tuple[str, str]:
    """(reasoning, answer), where a client may have sent them as one text."""
    text = _text(message)
    if message.reasoning is not None:
        return message.reasoning, text
    if "</think>" not in text:
        return "", text
    thought, answer = text.partition("</think>")[0], text.rpartition("</think>")[2]
    return thought.rstrip("\n").rpartition("<think>")[2].lstrip("\n"), answer.lstrip("\n")


def _tool_call(call: ToolCall) -> Iterator[Segment]:
    arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)
    yield Control("<tool_call>")
    yield f'\n{{"name": "{call.name}", "arguments": {arguments}}}\n'
    yield Control("</tool_call>")


def _tool_result(messages: Sequence[ChatMessage], index: int) -> Iterator[Segment]:
    """One tool's answer; neighbouring ones share a turn."""
    if index == 0 or messages[index - 1].role != "tool":
        yield from _markup("<role>OBSERVATION</role>")
    yield "\n"
    yield from (Control("<tool_response>"), "\n" + _text(messages[index]) + "\n", Control("</tool_response>"))
    if index + 1 == len(messages) or messages[index + 1].role != "tool":
        yield Control("<|role_end|>")


def _last_query(messages: Sequence[ChatMessage]) -> int:
    """Index of the last question a user asked; without one, of the last message."""
    queries = (i for i in reversed(range(len(messages))) if _is_query(messages[i]))
    return next(queries, len(messages) - 1)


def _is_query(message: ChatMessage) -> bool:
    """Whether this is a user's own turn, and not a tool's answer that a client passes on as the user."""
    if message.role != "user":
        return False
    text = render_string(_user_parts(message))
    return not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))
