"""Captions: how something is to be said, as the JSON text that the talker was trained to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_BGM: dict[str, Any] = {"Genre": None, "Mood": None, "Instrument": None, "Theme": None, "ENV": None, "SNR": None}
_ITEM: dict[str, Any] = {
    "序号": 1,
    "说话人": "speaker_1",
    "方言": None,
    "风格": None,
    "语速": None,
    "基频": None,
    "音量": None,
    "情感": None,
    "BGM": _BGM,
    "IP": None,
}
# With sound in the background the released tool writes the item in another order, and that order was trained.
_ORDER_WITH_SOUND = ("序号", "说话人", "BGM", "情感", "方言", "风格", "语速", "基频", "音量", "IP")

STYLE = "风格"  # the field for free text


def caption(fields: Mapping[str, Any]) -> str:
    """The caption with known fields replaced, each as a whole; unknown ones are left out."""
    item = {key: fields.get(key, value) for key, value in _ITEM.items()}
    background = item["BGM"]
    if isinstance(background, Mapping) and background.get("SNR") is not None:
        item = {key: item[key] for key in _ORDER_WITH_SOUND}
    return json.dumps({"audio_sequence": [item]}, ensure_ascii=False)
