from __future__ import annotations

import pytest

from ming_eval.evals.scoring.prepare import prepare, unboxed, without_reasoning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think> b", " b"),
        ("b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("before <think>a</think>b", "before b"),
        ("<think>a", None),
        ("b <think>a", None),
        ("<think>a</think>b <think>c", None),
    ],
)
def test_reasoning_goes(text: str, expected: str | None) -> None:
    assert without_reasoning(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{C}", "C"),
        (r"$\boxed{C}$", "C"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a} and \boxed{b}", "a and b"),
        (r"\boxed{never closed", r"\boxed{never closed"),
        (r"\boxed{$\boxed{C}$}", "C"),
        (r"a} \boxed{\boxed{b} c} {d}", "a} b c {d}"),
    ],
)
def test_boxes_open(text: str, expected: str) -> None:
    assert unboxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**bold** and *thin*", "bold and thin"),
        ("2*3*4", "2*3*4"),
        ("* a point", "* a point"),
        ("# Title", "Title"),
        ("Ａ：（Ｂ）", "A:(B)"),
        ("```json\nx\n```", "x"),
        (r"\textbf{C}", "C"),
    ],
)
def test_markup_goes(text: str, expected: str) -> None:
    assert prepare(text) == expected
