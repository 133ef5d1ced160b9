"""Token counts of a request, as the engine counted them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from engine.core.request import MediaKind
from engine.server.choice import Choice
from engine.server.plan import Plan


class PromptDetails(msgspec.Struct):
    cached_tokens: int
    audio_tokens: int
    image_tokens: int
    video_tokens: int


class CompletionDetails(msgspec.Struct):
    audio_tokens: int = 0
    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    """Counts are numbers, never null: readers take null for "not supported"."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def with_speech(usage: Usage, num_steps: int) -> Usage:
    """The same with the talker's steps, which count as generated tokens."""
    return replace(
        usage,
        completion_tokens=usage.completion_tokens + num_steps,
        total_tokens=usage.total_tokens + num_steps,
        completion_tokens_details=CompletionDetails(audio_tokens=num_steps),
    )


def count_usage(plan: Plan, choices: Sequence[Choice]) -> Usage:
    """Usage so far: each prompt once, generated tokens summed over choices."""
    prompt_tokens = plan.num_prompt_tokens
    completion_tokens = sum(choice.num_tokens for choice in choices)
    first_samples = choices[:: plan.num_samples]  # a later sample of a prompt finds what the first one computed
    details = PromptDetails(
        cached_tokens=sum(choice.cached_tokens for choice in first_samples),
        audio_tokens=_media_tokens(plan, "audio"),
        image_tokens=_media_tokens(plan, "image"),
        video_tokens=_media_tokens(plan, "video"),
    )
    total = prompt_tokens + completion_tokens
    return Usage(prompt_tokens, completion_tokens, total, details, CompletionDetails())


def _media_tokens(plan: Plan, kind: MediaKind) -> int:
    return sum(item.num_tokens for prompt in plan.prompts for item in prompt.media if item.kind == kind)
