from __future__ import annotations

import pytest

from ming_eval.evals.prompt import letters_phrase, options_block, render, turns
from ming_eval.evals.suite import Protocol, find_suite
from ming_eval.types import Media, Message, Text
from tests.ming_eval.evals.builders import make_item

LETTER = Protocol(text="{question}\n\n{options}\n\nAnswer with just the letter ({letters}):", max_tokens=8)


@pytest.mark.parametrize(
    ("letters", "phrase"), [("AB", "A or B"), ("ABC", "A, B, or C"), ("ABCD", "A, B, C, or D"), ("A", "A")]
)
def test_the_letters_follow_the_number_of_options(letters: str, phrase: str) -> None:
    assert letters_phrase(letters) == phrase


def test_the_default_prompt_of_mmlu_word_for_word() -> None:
    _, protocol = find_suite("mmlu").protocol(None)
    assert render(protocol, make_item()) == (
        "Which ones are red?\n\nA. Apples\nB. Pears\nC. Berries\nD. Nuts\n\n"
        "Answer with just the letter (A, B, C, or D):"
    )


def test_ten_options_have_ten_letters() -> None:
    assert options_block([str(i) for i in range(10)]).splitlines()[-1] == "J. 9"


def test_braces_in_a_question_are_plain_text() -> None:
    assert (
        render(Protocol(text="{question}", max_tokens=1), make_item(question="a {options} b {x")) == "a {options} b {x"
    )


def test_media_come_before_the_text() -> None:
    clip = Media("video", b"x", "video/mp4")
    (message,) = turns(LETTER, make_item(), media=(clip,))
    assert message.parts[0] is clip
    assert isinstance(message.parts[1], Text)


def test_a_system_turn_only_where_the_protocol_has_one() -> None:
    assert [message.role for message in turns(LETTER, make_item())] == ["user"]
    spoken = Protocol(text="{question}", max_tokens=1, system="Be brief.")
    assert turns(spoken, make_item())[0] == Message("system", (Text("Be brief."),))


def test_examples_are_turns_with_their_answers() -> None:
    solved = make_item(question="Which ones are nuts?", answer=3)
    messages = turns(LETTER, make_item(), examples=[solved])
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    assert messages[0].parts == (Text(render(LETTER, solved)),)
    assert messages[1].parts == (Text("D"),)


def test_examples_stand_in_the_text_where_the_template_says() -> None:
    inline = Protocol(text="{examples}\n\n{question}", max_tokens=1)
    (message,) = turns(inline, make_item(question="And red?"), examples=[make_item(answer=0)])
    assert message.parts == (
        Text("Which ones are red?\nA. Apples\nB. Pears\nC. Berries\nD. Nuts\nAnswer: A\n\nAnd red?"),
    )


def test_the_subtitle_paragraph_goes_away_with_the_subtitles() -> None:
    protocol = Protocol(text="Subtitles:\n{subtitles}\n\n{question}", max_tokens=1)
    assert render(protocol, make_item(), subtitles="hello") == "Subtitles:\nhello\n\nWhich ones are red?"
    assert render(protocol, make_item()) == "Which ones are red?"
    official = Protocol(text="Watch.\n\nSubtitles:\n{subtitles}\nSelect.\n{question}", max_tokens=1)
    assert render(official, make_item()) == "Watch.\n\nSelect.\nWhich ones are red?"
