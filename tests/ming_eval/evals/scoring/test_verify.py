"""Every check with a reply that follows the instruction and one that nearly does."""

from __future__ import annotations

from typing import Any

import pytest

from ming_eval.errors import DataError
from ming_eval.evals.item import Instruction, Item, Outcome, Reason, Reply
from ming_eval.evals.scoring.instructions import CHECKS, sentences
from ming_eval.evals.scoring.language import language_of
from ming_eval.evals.scoring.verify import score_instructions

CASES: dict[str, tuple[dict[str, Any], str, str | tuple[str, ...]]] = {  # arguments, follows, nearly follows
    "keywords:existence": ({"keywords": ["sun", "rain"]}, "Rain, then sun.", "Sunshine only."),
    "keywords:frequency": ({"keyword": "tea", "relation": "at least", "frequency": 2}, "Tea or tea?", "Tea?"),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "A catalogue.", "A CAT!"),
    "keywords:letter_frequency": ({"letter": "z", "let_relation": "less than", "let_frequency": 2}, "Zoo", "Zzz"),
    "language:response_language": (
        {"language": "de"},
        "Der Hund und die Katze sind nicht im Haus, weil das Wetter gut ist.",
        "The dog and the cat are not in the house because the weather is good.",
    ),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        "Dr. Smith came. He left.",
        "He came. He saw. He left.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One\n***\nTwo", "One\n\nTwo"),
    "length_constraints:number_words": ({"relation": "at least", "num_words": 3}, "one two three", "one two"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\nThen, later.",
        (
            "First.\n\nLater then.",
            "First.\n\n\n\nThen, later.",  # as the set's authors count: a blank paragraph keeps its place
        ),
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name] at (place)"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\nP.S. Write soon", "Bye. PS Write soon"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a\n** b"),
    "detectable_format:constrained_response": ({}, "So: My answer is maybe.", ("Maybe.", "my answer is maybe.")),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and **b**", "*a* and * b"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\nx\nPart 2\ny",
        "Part one\nx\nPart two\ny",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<A day>>\nIt began.", "<< >>\nIt began."),
    "combination:two_responses": ({}, "a ****** b", "a ****** a"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, "Say hi. Hi!", "Hi! Say hi."),
    "startend:end_checker": ({"end_phrase": "The end."}, "So it goes. The end.", "The end. So it goes."),
    "startend:quotation": ({}, '"All of it"', '"All" of it'),
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2},
        "I am LOUD",
        "LOUD only",
    ),
    "change_case:english_capital": ({}, "THE DOG IS IN THE HOUSE", "THE DOG is IN THE HOUSE"),
    "change_case:english_lowercase": ({}, "the dog is in the house", "The dog is in the house"),
    "punctuation:no_comma": ({}, "one two", "one, two"),
}


def item(*instructions: Instruction) -> Item:
    return Item("i", "Do it.", tuple(instructions))


def test_every_check_has_a_case() -> None:
    assert CASES.keys() == CHECKS.keys()


def test_brackets_without_end_are_no_json() -> None:
    assert not CHECKS["detectable_format:json_format"]("[" * 100_000, {})


@pytest.mark.parametrize("name", sorted(CASES))
def test_check(name: str) -> None:
    arguments, good, bad = CASES[name]
    assert score_instructions(item(Instruction(name, arguments)), Reply(good)).outcome is Outcome.CORRECT
    for each in (bad,) if isinstance(bad, str) else bad:
        assert score_instructions(item(Instruction(name, arguments)), Reply(each)).outcome is Outcome.WRONG, each


def test_a_prompt_is_right_when_every_instruction_is_followed() -> None:
    both = item(Instruction("punctuation:no_comma"), Instruction("startend:quotation"))
    score = score_instructions(both, Reply('"one, two"'))
    assert score.outcome is Outcome.WRONG
    assert score.extracted == "punctuation:no_comma"  # what was missed
    assert score.tallies["instruction_strict"] == (1.0, 2.0)
    assert score.tallies["prompt_loose"] == (0.0, 1.0)


def test_loose_forgives_wrapping_that_strict_does_not() -> None:
    quoted = item(Instruction("startend:quotation"))
    score = score_instructions(quoted, Reply('Sure, here it is:\n"All of it"'))
    assert score.outcome is Outcome.WRONG
    assert score.tallies["prompt_loose"] == (1.0, 1.0)
    assert score.tallies["instruction_loose"] == (1.0, 1.0)


def test_no_reply_follows_nothing() -> None:
    score = score_instructions(item(Instruction("punctuation:no_comma")), Reply(""))
    assert (score.outcome, score.reason) == (Outcome.UNPARSED, Reason.EMPTY)
    assert score.tallies["instruction_loose"] == (0.0, 1.0)


def test_reasoning_is_not_checked() -> None:
    reply = Reply("<think>well, hm</think>one two")
    assert score_instructions(item(Instruction("punctuation:no_comma")), reply).outcome is Outcome.CORRECT


def test_what_cannot_be_checked_is_an_error() -> None:
    with pytest.raises(DataError, match="keywords:unheard_of"):
        score_instructions(item(Instruction("keywords:unheard_of")), Reply("x"))
    with pytest.raises(DataError, match="num_words"):
        score_instructions(item(Instruction("length_constraints:number_words", {"relation": "at least"})), Reply("x"))


def test_sentences() -> None:
    assert len(sentences('He asked "Why?" and left. Mr. Fox stayed! Did he? Yes.')) == 4
    assert len(sentences("Version 2.5 is out. It is good.")) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("El perro y la casa son de los vecinos que no están.", "es"),
        ("O cachorro não está na casa, mas os gatos estão com ela.", "pt"),
        ("Le chien est dans la maison et les chats ne sont pas là.", "fr"),
        ("Собака и кошка живут в большом доме, они хорошие.", "ru"),
        ("Кучето е в голямата къща, но котката е навън.", "bg"),
        ("Собака і кішка живуть у великому будинку, їм добре.", "uk"),
        ("犬は家の中にいます。", "ja"),
        ("狗在房子里。", "zh"),
        ("개는 집 안에 있습니다.", "ko"),
        ("कुत्ता घर में है और बिल्ली बाहर है।", "hi"),
        ("الكلب في البيت", "ar"),
        ("سگ در خانه است و گربه پشت پنجره", "fa"),
        ("สุนัขอยู่ในบ้าน", "th"),
        ("12345", None),
    ],
)
def test_language(text: str, code: str | None) -> None:
    assert language_of(text) == code
