"""Letters out of replies; the options are Apples, Pears, Berries, Nuts, and C is right."""

from __future__ import annotations

import pytest

from ming_eval.evals.item import Outcome, Reason, Reply
from ming_eval.evals.scoring.choice import score_choice
from tests.ming_eval.evals.builders import make_item

# The table of the accuracy protocol.
PROTOCOL_TABLE = [
    ("C", "C"),
    ("C.", "C"),
    ("(C)", "C"),
    ("**C**", "C"),
    ("c", "C"),
    ("Ｃ", "C"),
    ("C. Berries.", "C"),
    ("The answer is C.", "C"),
    ("Answer: C", "C"),
    ("ANSWER: C", "C"),
    ("answer: c", "C"),
    ("Based on the video, the answer is C.", "C"),
    ("答案：C", "C"),
    ("选C。", "C"),
    ("答案是C", "C"),
    ("<think>It is A, or maybe B.</think>C", "C"),
    ("Berries", "C"),
    ("A man is seen; so the correct option is C.", "C"),
    ("Because A is wrong and B is wrong, I choose C.", "C"),
    ("Option A is incorrect. The answer is (C).", "C"),
    ("The answer is A or C", Reason.AMBIGUOUS),
    ("I cannot determine the answer.", Reason.NO_ANSWER),
    ("", Reason.EMPTY),
    ("A man walks past.", Reason.NO_ANSWER),
]

MORE = [
    # brackets, quotes, mark-up
    ("[C]", "C"),
    ('"C"', "C"),
    ("「C」", "C"),
    ("`C`", "C"),
    ("```\nC\n```", "C"),
    ("__C__", "C"),
    ("### C", "C"),
    (r"\boxed{C}", "C"),
    (r"$\boxed{\text{C}}$", "C"),
    (r"The final answer is $\boxed{C}$.", "C"),
    (r"\(C\)", "C"),
    ("The answer is $C$.", "C"),
    ("**Answer:** C", "C"),
    ("**Answer: C**", "C"),
    ("Answer:\n\nC", "C"),
    ("  C  \n", "C"),
    # cues
    ("The correct answer is: C", "C"),
    ("The best choice is C, since berries are red.", "C"),
    ("The answer to the question is C.", "C"),
    ("The answer is option C.", "C"),
    ("Answer: Option C", "C"),
    ("Answer: 'C'", "C"),
    ("The right option would be (C).", "C"),
    ("I pick C.", "C"),
    ("I select option C.", "C"),
    ("Final answer: C) Berries", "C"),
    ("My first answer is A. On reflection, the answer is C.", "C"),
    ("Answer: C\n\nThis option is supported by the text.", "C"),
    ("我选择C", "C"),
    ("正确选项是C。", "C"),
    ("选项A是错误的，答案为C。", "C"),
    ("答案：（C）", "C"),
    ("正解はCです。", "C"),
    ("答え：C", "C"),
    ("정답은 C입니다", "C"),
    ("정답: C", "C"),
    ("La respuesta: C", "C"),
    ("Réponse : C", "C"),
    ("Antwort: C", "C"),
    ("Risposta: C", "C"),
    ("Resposta: C", "C"),
    # where the letter stands
    ("C: Berries", "C"),
    ("C) Berries", "C"),
    ("(C) Berries are red.", "C"),
    ("Berries are red and the others are not.\n\nC", "C"),
    ("Apples can be red too.\n(C).", "C"),
    ("berries.", "C"),
    ("BERRIES", "C"),
    ("</think>\nC", "C"),  # the prompt opened the section
    # wrong letters
    ("A", "A"),
    ("The answer is A, not C.", "A"),
    ("Answer: b.", "B"),
    # several letters
    ("A or C", Reason.AMBIGUOUS),
    ("A/C", Reason.AMBIGUOUS),
    ("B, C", Reason.AMBIGUOUS),
    ("A and C", Reason.AMBIGUOUS),
    ("答案是A和C", Reason.AMBIGUOUS),
    ("答案：A或C", Reason.AMBIGUOUS),
    ("Answer: A & C", Reason.AMBIGUOUS),
    ("Answer: C or maybe D", Reason.AMBIGUOUS),
    ("The answer is (A) or (C)", Reason.AMBIGUOUS),
    ("The answer is A, B, or C.", Reason.AMBIGUOUS),
    ("The answer is option A or option C.", Reason.AMBIGUOUS),
    ("C or C", "C"),
    # no letter
    ("The answer is not A but C", Reason.NO_ANSWER),
    ("The answer isn't C.", Reason.NO_ANSWER),
    ("不选C", Reason.NO_ANSWER),
    ("不能选C", Reason.NO_ANSWER),
    ("选B，不应该选C", "B"),
    ("A: C", Reason.NO_ANSWER),
    ("Answer: a cat", Reason.NO_ANSWER),
    ("the answer is c", Reason.NO_ANSWER),
    ("NASA", Reason.NO_ANSWER),
    ("A cat sat on the mat.", Reason.NO_ANSWER),
    ("C, because berries are red", Reason.NO_ANSWER),
    ("C because berries are red", Reason.NO_ANSWER),
    ("Option A is wrong, option B is wrong.", Reason.NO_ANSWER),
    ("E", Reason.NO_ANSWER),
    ("Answer: E", Reason.NO_ANSWER),
    ("The answer is C3.", Reason.NO_ANSWER),
    ("The answer is C's.", Reason.NO_ANSWER),
    ("Berries or Nuts", Reason.NO_ANSWER),
    ("Answer with just the letter", Reason.NO_ANSWER),
    ("   \n  ", Reason.EMPTY),
    ("<think>It is C", Reason.TRUNCATED),
    ("I'm sorry, but I can't help with that.", Reason.REFUSAL),
    ("I cannot assist with this request.", Reason.REFUSAL),
    ("抱歉，我无法回答这个问题。", Reason.REFUSAL),
]


@pytest.mark.parametrize(("text", "expected"), PROTOCOL_TABLE + MORE)
def test_letter_or_reason(text: str, expected: str) -> None:
    score = score_choice(make_item(), Reply(text))
    if isinstance(expected, Reason):
        assert (score.outcome, score.reason, score.extracted) == (Outcome.UNPARSED, expected, None)
    else:
        outcome = Outcome.CORRECT if expected == "C" else Outcome.WRONG
        assert (score.outcome, score.extracted, score.reason) == (outcome, expected, None)


def test_enough_replies_of_our_own() -> None:
    assert len(MORE) >= 60


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("C", "bare"),
        ("The answer is C.", "marked"),
        ("C. Berries", "leading"),
        ("Red ones.\nC", "lastline"),
        ("Berries", "optiontext"),
    ],
)
def test_the_rule_that_decided_is_stored(text: str, rule: str) -> None:
    assert score_choice(make_item(), Reply(text)).rule == rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: I think it is the second one", Reason.NO_ANSWER),
        ("I think that both are right.", Reason.NO_ANSWER),
        ("I'd say the fourth.", Reason.NO_ANSWER),
        ("I. Well, hard to say.", Reason.NO_ANSWER),
        ("The answer is B, I think.", "B"),  # the pronoun is no second letter
        ("I. option 8", "I"),
        ("Answer: I", "I"),
        ("The answer is J.", "J"),
        ("K", Reason.NO_ANSWER),
    ],
)
def test_ten_options_and_the_pronoun(text: str, expected: str) -> None:
    item = make_item(choices=tuple(f"option {i}" for i in range(10)), answer=0)
    score = score_choice(item, Reply(text))
    assert (score.reason if isinstance(expected, Reason) else score.extracted) == expected


def test_the_article_of_an_option_text_is_no_letter() -> None:
    item = make_item(choices=("Nobody", "A man", "Two men", "A dog"), answer=1)
    assert score_choice(item, Reply("Answer: A man")).outcome is Outcome.UNPARSED
    assert score_choice(item, Reply("A man.")).extracted == "B"  # the whole reply is one option's text
    assert score_choice(item, Reply("Answer: A")).extracted == "A"


def test_two_options_with_one_text_decide_nothing() -> None:
    item = make_item(choices=("red", "Red.", "blue", "green"))
    assert score_choice(item, Reply("red")).reason == Reason.NO_ANSWER


def test_truncated_replies_are_told_from_silent_ones() -> None:
    cut = Reply("Let us look at the options one by one", finish_reason="length")
    assert score_choice(make_item(), cut).reason == Reason.TRUNCATED
    assert score_choice(make_item(), Reply("", finish_reason="length")).reason == Reason.TRUNCATED
    assert score_choice(make_item(), Reply("C. Berries, because", finish_reason="length")).extracted == "C"


def test_a_filtered_reply_is_a_refusal() -> None:
    assert score_choice(make_item(), Reply("Hm.", finish_reason="content_filter")).reason == Reason.REFUSAL


def test_letters_of_another_script_come_from_the_suite_file() -> None:
    bengali = {"ক": "A", "খ": "B", "গ": "C", "ঘ": "D"}
    assert score_choice(make_item(), Reply("গ"), bengali).outcome is Outcome.CORRECT
    assert score_choice(make_item(), Reply("গ")).reason == Reason.NO_ANSWER


def test_a_model_in_a_loop_costs_no_more_than_its_length() -> None:
    """Square in the number of boxes, this would take minutes."""
    for text in ("\\boxed{" * 10_000, "\\boxed{C} " * 10_000, "不能选C" * 10_000):
        assert score_choice(make_item(), Reply(text)).outcome is Outcome.UNPARSED
