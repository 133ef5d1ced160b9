"""Golden h_chat_template: the released builders' strings, by our Python code, our Jinja file and `transformers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from engine.errors import InvalidRequest
from engine.inputs.sandbox import render
from engine.inputs.template_check import CHAT_TEMPLATE
from engine.inputs.templates import expand_audios, expand_images, expand_videos, render_processor, render_template
from engine.tiny.snapshot import write_snapshot

GOLDEN = Path(__file__).parents[2] / "goldens" / "understanding" / "h_chat_template"

Case = dict[str, Any]
Renderer = Callable[..., str]


def cases(name: str) -> list[Case]:
    loaded: list[Case] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


JINJA = pytest.mark.parametrize("case", cases("jinja_cases"), ids=lambda case: case["name"])


def check(case: Case, render_case: Callable[[], str], *refusals: type[Exception]) -> None:
    if "error" in case:
        with pytest.raises(refusals):
            render_case()
    else:
        assert render_case() == case["expected"]


@JINJA
def test_text_template_in_python(case: Case) -> None:
    check(case, lambda: render_template(case["messages"], **case["kwargs"]), InvalidRequest)


@JINJA
def test_text_template_in_jinja(case: Case) -> None:
    check(case, lambda: render(CHAT_TEMPLATE, case["messages"], **case["kwargs"]), TemplateError, TypeError)


@pytest.fixture(scope="module")
def transformers_template(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """The embedded snapshot's tokenizer as `transformers` loads it, without the weights."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("snapshot")
    write_snapshot(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda messages, **kwargs: tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)


@pytest.mark.slow
@JINJA
def test_text_template_in_transformers(case: Case, transformers_template: Renderer) -> None:
    refusals = (TemplateError, TypeError, ValueError, IndexError)  # the library checks the messages, too
    check(case, lambda: transformers_template(case["messages"], **case["kwargs"]), *refusals)


@pytest.mark.parametrize("case", cases("processor_cases"), ids=lambda case: case["name"])
def test_processor(case: Case) -> None:
    check(case, lambda: render_processor(case["conversation"], **case["kwargs"]), InvalidRequest)


@pytest.mark.parametrize("case", cases("placeholder_expansion"), ids=lambda case: case["kind"] + "|" + case["text"])
def test_placeholder_expansion(case: Case) -> None:
    if case["kind"] == "image":
        assert expand_images(case["text"], case["image_grid_thw"]) == case["expected"]
    elif case["kind"] == "audio":
        assert expand_audios(case["text"], case["encoder_feats_lengths"][0]) == case["expected"]
    else:
        text, rows = expand_videos(case["text"], case["video_grid_thw"], case["video_timestamps_seconds"])
        assert text == case["expected"]
        assert rows == case["expected_video_grid_thw"]


USER = {"role": "user", "content": "q"}
THOUGHT = {"role": "assistant", "content": "<think>\na\n</think>\n\n<think>b</think>\n\nz"}

# Rules of the specification that no golden case touches.
UNTOUCHED = [
    pytest.param(
        [USER, THOUGHT], {}, "<role>ASSISTANT</role>\n<think>\na\n</think>\n\nz<|role_end|>", id="two_thoughts"
    ),
    pytest.param(
        [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": '"é'}]}],
        {},
        '<role>ASSISTANT</role><tool_call>\n{"name": "f", "arguments": "é}\n</tool_call><|role_end|>',
        id="arguments_verbatim",
    ),
    pytest.param([USER], {"enable_thinking": True}, "detailed thinking off", id="thinking_is_fixed"),
    pytest.param(
        [{"role": "assistant", "content": "<think>\nr\n</think>\n\nz"}, {"role": "tool", "content": "t"}],
        {},
        "<role>ASSISTANT</role>z<|role_end|><role>OBSERVATION</role>\n<tool_response>\nt\n</tool_response><|role_end|>",
        id="no_question_at_all",
    ),
]


@pytest.mark.parametrize(("messages", "kwargs", "expected"), UNTOUCHED)
def test_python_and_jinja_follow_the_specification(messages: list[Case], kwargs: Case, expected: str) -> None:
    assert expected in render_template(messages, **kwargs)
    assert render(CHAT_TEMPLATE, messages, **kwargs) == render_template(messages, **kwargs)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "x"},
        {"role": "system", "content": ["x"]},
        {"role": "user"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]},
    ],
)
def test_text_template_refuses(message: Case) -> None:
    with pytest.raises(InvalidRequest):
        render_template([message])
    with pytest.raises((TemplateError, TypeError)):
        render(CHAT_TEMPLATE, [message])


@pytest.mark.parametrize(
    "content",
    ["text", [{"type": "file", "file": "x"}], [{"type": "image"}], [{"type": "video", "video": "<video><video>"}]],
)
def test_processor_refuses(content: Any) -> None:
    with pytest.raises(InvalidRequest):
        render_processor([{"role": "HUMAN", "content": content}])


def test_processor_counts_spelled_markers_in_file_names() -> None:
    content = [{"type": "image", "image": ["<image>.jpg", "b.jpg", "c.jpg"]}, {"type": "audio", "audio": "<audio>"}]
    assert "<role>HUMAN</role><IMAGE>\n<IMAGE><|role_end|>" in render_processor([{"role": "HUMAN", "content": content}])


def test_expansion_of_surplus_media_and_markers() -> None:
    assert expand_images("<IMAGE>", [(1, 2, 2), (1, 2, 2)]) == "<image><imagePatch></image>\n"
    assert expand_audios("<AUDIO>x", [1, 2]) == (
        "<audio><audioPatch></audio>x<audio><audioPatch><audioPatch></audio>\n"
    )
    with pytest.raises(InvalidRequest, match="2 <IMAGE> markers for 1 items"):
        expand_images("<IMAGE><IMAGE>", [(1, 2, 2)])
