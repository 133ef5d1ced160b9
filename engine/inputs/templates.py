"""The prompt builders exactly as released, on the wire formats they take and with the strings they give.

Requests never come this way (see `chat.py`). These are here to be compared with the released strings, so they keep
what the released ones do with markers that stand in a user's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from engine.core.request import MediaKind
from engine.errors import InvalidRequest
from engine.inputs.chat import MING_SYSTEM, MediaTokens, PromptOptions, build_prompt, expand_media, render_string
from engine.inputs.messages import ChatMessage, Role, TextPart, ToolCall

Grid = Sequence[int]  # (t, h, w) in vision patches

_PATCHES_PER_TOKEN = 4  # the vision tower merges 2 x 2 patches


def render_template(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **_unused: object,
) -> str:
    """Builder J, the text template: OpenAI messages with string content, and tools.

    Further template variables change nothing, the thinking switch included.

    Raises:
        InvalidRequest: what makes the released template fail, or a role that it would silently leave out.
    """
    options = PromptOptions(add_generation_prompt=add_generation_prompt, tools=tools or ())
    return render_string(build_prompt([_chat_message(message) for message in messages], options))


def render_processor(
    conversation: Sequence[Mapping[str, Any]],
    *,
    sys_prompt_exp: str | None = None,
    use_cot_system_prompt: bool = False,
) -> str:
    """Builder P, the multimodal processor: roles HUMAN and ASSISTANT, content as a list of parts.

    Raises:
        InvalidRequest: another role, content that is no list of known parts, or a last turn that is not HUMAN's.
    """
    if not conversation or conversation[-1].get("role") != "HUMAN":
        raise _invalid("the last message must have the role HUMAN")
    system = MING_SYSTEM if sys_prompt_exp is None else sys_prompt_exp
    thinking = "on" if use_cot_system_prompt else "off"
    turns = [f"<role>SYSTEM</role>{system}\n\ndetailed thinking {thinking}<|role_end|>"]
    turns += map(_processor_turn, conversation)
    return "".join(turns) + "<role>ASSISTANT</role>"


def expand_images(text: str, grids: Sequence[Grid]) -> str:
    """Each `<IMAGE>` as its placeholders; an image without a marker is left out."""
    sizes = [MediaTokens((_num_tokens(grid),)) for grid in grids]
    return _fill(text, "<IMAGE>", [_expanded("image", size) for size in sizes])


def expand_videos(
    text: str, grids: Sequence[Grid], timestamps_s: Sequence[Sequence[float]]
) -> tuple[str, list[list[int]]]:
    """Each `<VIDEO>` as timestamped frame pairs; also the grids with one row (1, h, w) for each pair."""
    rows = [[[1, h, w]] * t for t, h, w in grids]
    sizes = [
        MediaTokens(tuple(map(_num_tokens, pairs)), tuple(times))
        for pairs, times in zip(rows, timestamps_s, strict=True)
    ]
    return _fill(text, "<VIDEO>", [_expanded("video", size) for size in sizes]), [
        row for pairs in rows for row in pairs
    ]


def expand_audios(text: str, lengths: Sequence[int]) -> str:
    """Each `<AUDIO>` as its placeholders; a clip without a marker goes to the very end, with a newline."""
    clips = [_expanded("audio", MediaTokens((length,))) for length in lengths]
    num_markers = text.count("<AUDIO>")
    return _fill(text, "<AUDIO>", clips) + "".join(clip + "\n" for clip in clips[num_markers:])


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"messages: {message}", param="messages")


def _chat_message(message: Mapping[str, Any]) -> ChatMessage:
    role, content, reasoning = message.get("role"), message.get("content"), message.get("reasoning_content")
    if role not in ("system", "user", "assistant", "tool"):
        raise _invalid(f"role {role!r} is not one of system, user, assistant, tool")
    if not isinstance(content, str):
        if role in ("system", "user"):
            raise _invalid(f"content of a {role} message must be a string, got {type(content).__name__}")
        content = ""
    return ChatMessage(
        role=cast(Role, role),
        parts=(TextPart(content),),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        tool_calls=tuple(map(_tool_call, message.get("tool_calls") or ())),
    )


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") or call
    if not isinstance(function.get("name"), str) or "arguments" not in function:
        raise _invalid("a tool call must have a name and arguments")
    return ToolCall(function["name"], function["arguments"])


def _processor_turn(message: Mapping[str, Any]) -> str:
    role, content = message.get("role"), message.get("content")
    if role not in ("HUMAN", "ASSISTANT"):
        raise _invalid(f"role {role!r} is not one of HUMAN, ASSISTANT")
    if not isinstance(content, list):
        raise _invalid(f"content must be a list of parts, got {type(content).__name__}")
    return f"<role>{role}</role>" + "".join(_processor_parts(content)) + "<|role_end|>"


def _processor_parts(content: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    # As released: a lower-case marker anywhere in the content, even in a file name, suppresses an upper-case one.
    spelled = str(content)
    for part in content:
        kind = part.get("type")
        if kind not in ("text", "image", "audio", "video") or kind not in part:
            raise _invalid(
                f"a part of type {kind!r}; known are text, image, audio, video, each with a key of that name"
            )
        if kind == "text":
            yield part["text"]
        elif kind == "video":
            yield _video_marker(spelled)
        else:
            num_items = len(part[kind]) if isinstance(part[kind], (list, tuple)) else 1
            yield "\n".join([f"<{kind.upper()}>"] * (num_items - spelled.count(f"<{kind}>")))


def _video_marker(spelled: str) -> str:
    num_spelled = spelled.count("<video>")
    if num_spelled > 1:
        raise _invalid("<video> may stand in the content once at most")
    return "" if num_spelled else "<VIDEO>"


def _num_tokens(grid: Grid) -> int:
    t, h, w = grid
    return t * h * w // _PATCHES_PER_TOKEN


def _expanded(kind: MediaKind, size: MediaTokens) -> str:
    return render_string(expand_media(kind, size))


def _fill(text: str, marker: str, pieces: Sequence[str]) -> str:
    """Replace the k-th marker by the k-th piece; pieces may be left over, markers may not."""
    first, *rest = text.split(marker)
    if len(rest) > len(pieces):
        raise _invalid(f"{len(rest)} {marker} markers for {len(pieces)} items")
    return first + "".join(piece + after for piece, after in zip(pieces, rest, strict=False))
