"""`h_chat_template`: both released prompt builders and the expansion of placeholders, as strings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest
from engine.goldens.compare import CaseResult, load_json
from engine.inputs.templates import expand_audios, expand_images, expand_videos, render_processor, render_template


def run_prompts(folder: Path) -> CaseResult:
    """Every rendering, and every input that the released code refuses."""
    result = CaseResult(folder.name)
    for case in load_json(folder / "jinja_cases.json"):
        _check(result, "jinja", case, lambda c: render_template(c["messages"], **c["kwargs"]))
    for case in load_json(folder / "processor_cases.json"):
        _check(result, "processor", case, lambda c: render_processor(c["conversation"], **c["kwargs"]))
    for index, case in enumerate(load_json(folder / "placeholder_expansion.json")):
        _expand(result, f"expansion.{index}.{case['kind']}", case)
    return result


def _check(result: CaseResult, builder: str, case: dict[str, Any], render: Callable[[dict[str, Any]], str]) -> None:
    name = f"{builder}.{case['name']}"
    try:
        got: str | None = render(case)
    except InvalidRequest:
        got = None
    if "error" in case:
        result.equal(f"{name} is refused", got is None, True)
    else:
        result.equal(name, got, case["expected"])


def _expand(result: CaseResult, name: str, case: dict[str, Any]) -> None:
    text = case["text"]
    if case["kind"] == "image":
        result.equal(name, expand_images(text, case["image_grid_thw"]), case["expected"])
    elif case["kind"] == "video":
        got, rows = expand_videos(text, case["video_grid_thw"], case["video_timestamps_seconds"])
        result.equal(name, got, case["expected"])
        result.equal(f"{name} grid", rows, case["expected_video_grid_thw"])
    else:
        lengths = [n for row in case["encoder_feats_lengths"] for n in row if n > 0]
        result.equal(name, expand_audios(text, lengths), case["expected"])
