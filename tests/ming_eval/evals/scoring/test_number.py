from __future__ import annotations

import pytest

from ming_eval.evals.item import Item, Outcome, Reason, Reply
from ming_eval.evals.scoring.number import score_number


def item(answer: str) -> Item:
    return Item("n", "How many?", answer)


@pytest.mark.parametrize(
    ("text", "extracted", "rule"),
    [
        ("18", "18", "lastline"),
        ("The answer is 18.", "18", "answer"),
        ("Answer: 18", "18", "answer"),
        ("**Answer:** 18 apples", "18", "answer"),
        ("First 3, then 5.\nAnswer: 18\nI used 2 steps.", "18", "answer"),
        ("3 * 6 = 18", "18", "equals"),
        ("The answer: 3 boxes + 15 boxes = 18 boxes.", "18", "equals"),
        ("3 * 6 = 18\n#### 18", "18", "marker"),
        (r"So it is \boxed{18}.", "18", "marker"),
        (r"\boxed{18}, as 3 + 15 are 18", "18", "marker"),
        ("He has 3 and 15.\nIn all, that makes 18.", "18", "lastline"),
        ("It is 18.\n\nHope this helps!", "18", "lastline"),
        ("答案是18", "18", "answer"),
        ("１８", "18", "lastline"),
        ("Answer:\n18", "18", "answer"),
        ("1,234,567", "1234567", "lastline"),
        ("$1,200.50", "1200.5", "lastline"),
        ("It costs $5.", "5", "lastline"),
        ("-3", "-3", "lastline"),
        ("−3", "-3", "lastline"),
        ("5-3", "3", "lastline"),
        ("75 %", "75", "lastline"),
        (".5", "0.5", "lastline"),
        ("1e3", "1000", "lastline"),
        (r"\frac{1}{2}", "0.5", "lastline"),
        ("Answer: 1/3", "1/3", "answer"),
        ("In step 1 of my answer I count.\nSo 42", "42", "lastline"),
        ("<think>17</think>18", "18", "lastline"),
    ],
)
def test_which_number(text: str, extracted: str, rule: str) -> None:
    score = score_number(item("0"), Reply(text))
    assert (score.extracted, score.rule) == (extracted, rule)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("", "stop", Reason.EMPTY),
        ("many", "stop", Reason.NO_ANSWER),
        ("eighteen", "stop", Reason.NO_ANSWER),
        ("Let me think about", "length", Reason.TRUNCATED),
        ("<think>18", "stop", Reason.TRUNCATED),
        ("1/0", "stop", Reason.NO_ANSWER),
        ("9" * 20_000, "length", Reason.TRUNCATED),  # a model in a loop
        ("1e999999999", "stop", Reason.NO_ANSWER),
    ],
)
def test_no_number(text: str, finish_reason: str, reason: Reason) -> None:
    score = score_number(item("18"), Reply(text, finish_reason))
    assert (score.outcome, score.reason) == (Outcome.UNPARSED, reason)


@pytest.mark.parametrize(
    ("text", "gold", "is_right"),
    [
        ("18.0", "18", True),
        ("18", "18.00", True),
        ("1.8e1", "18", True),
        ("18.01", "18", False),
        ("0.1", "0.10", True),
        ("0.30000000000000004", "0.3", False),  # exact, not by floating point
        ("81", "18", False),
    ],
)
def test_numbers_compare_as_decimals(text: str, gold: str, is_right: bool) -> None:
    assert (score_number(item(gold), Reply(text)).outcome is Outcome.CORRECT) == is_right


def test_tolerance_is_relative() -> None:
    assert score_number(item("200"), Reply("190"), tolerance=0.05).value == 1.0
    assert score_number(item("200"), Reply("189.9"), tolerance=0.05).value == 0.0
    assert score_number(item("0"), Reply("0.001"), tolerance=0.05).value == 0.0
