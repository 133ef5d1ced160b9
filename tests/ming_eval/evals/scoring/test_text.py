from __future__ import annotations

import pytest

from ming_eval.evals.item import Item, Outcome, Reason, Reply
from ming_eval.evals.scoring.edits import edit_distance
from ming_eval.evals.scoring.label import plain, score_label
from ming_eval.evals.scoring.text import anls, exact, f1, relaxed, score_text


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 2)]
)
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize(
    ("text", "metric", "value", "rule"),
    [
        ("the Eiffel Tower.", "exact", 1.0, "whole"),
        ("Answer: Eiffel tower", "exact", 1.0, "marked"),
        ("Eiffel Towers", "exact", 0.0, "whole"),
        ("It is the Eiffel Tower in Paris.", "contains", 1.0, "whole"),
        ("It is in Paris.", "contains", 0.0, "whole"),
        ("Eiffel Tower Paris", "f1", 0.8, "whole"),  # precision 2/3, recall 1
        ("Eifel Tower", "anls", 11 / 12, "whole"),
        ("Big Ben", "anls", 0.0, "whole"),
    ],
)
def test_metrics_of_text(text: str, metric: str, value: float, rule: str) -> None:
    score = score_text(Item("t", "What is it?", "Eiffel Tower"), Reply(text), metric)
    assert score.value == pytest.approx(value)
    assert score.rule == rule
    assert (score.outcome is Outcome.CORRECT) == (value == 1.0)


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("3.0", "3", 1.0),
        ("$1,234.50", "1234.5", 1.0),
        ("35", "3.5", 0.0),
        ("35 cm", "3.5 cm", 0.0),
        ("5", "-5", 0.0),
        ("12", "1/2", 0.0),
        ("the 3.5 cm.", "3.5 cm", 1.0),
        ("9" * 20_000, "9", 0.0),
        ("A", "a", 1.0),
        ("the", "A", 0.0),
    ],
)
def test_numbers_among_texts_keep_their_signs(answer: str, gold: str, value: float) -> None:
    assert exact(answer, gold) == value


def test_the_best_of_several_accepted_answers_counts() -> None:
    item = Item("t", "Who?", ("J. S. Bach", "Bach"))
    assert score_text(item, Reply("bach")).outcome is Outcome.CORRECT
    assert score_text(item, Reply("Handel")).outcome is Outcome.WRONG
    assert score_text(item, Reply("")).reason == Reason.EMPTY


def test_values_at_their_limits() -> None:
    assert anls("abcd", "abxy") == 0.5
    assert anls("abcd", "axyz") == 0.0  # 0.25 is below the limit
    assert f1("red green", "blue") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("105", "100", 1.0),
        ("106", "100", 0.0),
        ("1,050", "1000", 1.0),
        ("Yes", "yes", 1.0),
        ("about 99 %", "100%", 1.0),
    ],
)
def test_relaxed_compares_numbers_with_tolerance(answer: str, gold: str, value: float) -> None:
    assert relaxed(answer, gold, 0.05) == value


LABELS = ("apple_pie", "ice_cream", "cream", "pizza")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ice cream", "ice cream"),
        ("Ice_Cream.", "ice cream"),
        ("IceCream", "ice cream"),
        ("Answer: ice cream", "ice cream"),
        ("The picture shows ice cream in a bowl.", "ice cream"),  # the cream in it is part of the longer label
        ("A pizza with ice cream", Reason.AMBIGUOUS),
        ("A hamburger", Reason.NO_ANSWER),
        ("", Reason.EMPTY),
    ],
)
def test_labels(text: str, expected: str) -> None:
    score = score_label(Item("l", "What is this?", "ice_cream", choices=LABELS), Reply(text))
    if isinstance(expected, Reason):
        assert (score.outcome, score.reason) == (Outcome.UNPARSED, expected)
    else:
        assert (score.outcome, score.extracted) == (Outcome.CORRECT, expected)


def test_a_wrong_label_is_wrong() -> None:
    assert score_label(Item("l", "?", "ice_cream", choices=LABELS), Reply("Pizza")).outcome is Outcome.WRONG
    assert plain("HighJump") == "high jump"
