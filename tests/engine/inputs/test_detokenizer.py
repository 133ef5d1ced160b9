from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.inputs.detokenizer import Detokenizer
from tests.engine.inputs.tokens import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def pieces(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*map(detokenizer.push, ids), detokenizer.flush()]


def test_a_character_of_three_tokens_appears_with_the_third() -> None:
    assert pieces([0x41, *"你".encode(), 0x42]) == ["A", "", "", "你", "B", ""]


def test_a_broken_rest_becomes_one_replacement_character() -> None:
    assert pieces([0x41, *"😀".encode()[:3]]) == ["A", "", "", "", "\ufffd"]


def test_bytes_that_cannot_continue_a_character_are_replaced_at_once() -> None:
    assert pieces([0xE4, 0x41]) == ["", "\ufffdA", ""]


def test_control_tokens_give_no_text_even_inside_a_character() -> None:
    end = TOKENIZER.special_ids["<|role_end|>"]
    first, second = "é".encode()
    assert pieces([first, end, second, end]) == ["", "", "é", "", ""]


def test_nothing_is_left_after_flush() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.push(0xE4)
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.push(0x41) == "A"


@given(st.lists(st.one_of(st.integers(0, TOKENIZER.vocab_size + 4), st.integers(0x7F, 0xFF))))
def test_pieces_join_to_the_text_of_the_whole(ids: list[int]) -> None:
    """The library decodes the sequence at once, broken characters and control tokens included."""
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_valid_text_never_shows_a_replacement_character(text: str) -> None:
    shown = pieces(TOKENIZER.encode(text))
    assert "".join(shown) == text
    assert all("\ufffd" not in piece for piece in shown)
