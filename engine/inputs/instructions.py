"""Instructions for speech: words, or a JSON object with fields of a caption."""

from __future__ import annotations

from typing import Any

import msgspec

CAPTION_FIELDS = ("序号", "说话人", "方言", "风格", "语速", "基频", "音量", "情感", "BGM", "IP")
_MAX_BRACKETS = 64  # a caption has two; far fewer than what a parser runs out of stack for


def caption_fields(instructions: str) -> dict[str, Any] | None:
    """The fields of a caption, where instructions are a JSON object; None where they are words."""
    if not instructions.lstrip().startswith("{") or instructions.count("{") + instructions.count("[") > _MAX_BRACKETS:
        return None
    try:
        return msgspec.json.decode(instructions, type=dict[str, Any])
    except msgspec.DecodeError:  # among them what json takes and no tokenizer does: half a surrogate pair
        return None
