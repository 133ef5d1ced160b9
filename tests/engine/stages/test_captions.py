from __future__ import annotations

import json
from typing import Any

from engine.inputs.instructions import CAPTION_FIELDS
from engine.stages.captions import STYLE, caption


def item(fields: dict[str, Any]) -> dict[str, Any]:
    return json.loads(caption(fields))["audio_sequence"][0]


def test_known_fields_are_replaced_as_a_whole_and_unknown_ones_dropped() -> None:
    got = item({"情感": "高兴", "BGM": {"Genre": "jazz"}, "tempo": 3})
    assert got["情感"] == "高兴"
    assert got["BGM"] == {"Genre": "jazz"}
    assert "tempo" not in got
    assert got["风格"] is None


def test_text_stays_readable() -> None:
    assert '"风格": "像在“耳语”"' in caption({STYLE: "像在“耳语”"})


def test_background_sound_reorders_the_item() -> None:
    plain = ["序号", "说话人", "方言", "风格", "语速", "基频", "音量", "情感", "BGM", "IP"]
    with_sound = ["序号", "说话人", "BGM", "情感", "方言", "风格", "语速", "基频", "音量", "IP"]
    assert list(item({})) == list(item({"BGM": {"SNR": None}})) == list(CAPTION_FIELDS) == plain
    assert list(item({"BGM": {"SNR": 0.0}})) == with_sound


def test_a_caption_leaves_no_trace_in_the_next() -> None:
    before = caption({})
    caption({"BGM": {"SNR": 1}, "IP": "x"})
    assert caption({}) == before


def test_background_that_is_no_mapping_is_kept_as_given() -> None:
    assert item({"BGM": None})["BGM"] is None
