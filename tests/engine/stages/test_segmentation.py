"""Segments: worked examples, and the same segments however the text arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import SegmentationMode
from engine.stages.cut import cut, semantic_length
from engine.stages.segmentation import MAX_CHARS, ReleasedSegmenter, Segmenter, SentenceSegmenter, tokens
from engine.stages.text import TextFrontEnd, make_front_end


def segments(segmenter: Segmenter, *pieces: str) -> list[str]:
    return [segment for piece in pieces for segment in segmenter.push(piece)] + segmenter.finish()


def test_tokens_by_hand() -> None:
    text = "U.S.A. isn't well-known, 3.14!  好\n"
    want = ["U.S.A.", " ", "isn't", " ", "well-known", ",", " ", "3.14", "!", "  ", "好", "\n"]
    assert tokens(text) == want


def test_length_counts_characters_and_words() -> None:
    assert semantic_length("你好 GPT-4 is 25度。") == 2 + 2 + 1


def test_a_fitting_text_is_left_alone() -> None:
    assert cut("Hello, world. 你好。") == ["Hello, world. 你好。"]


@pytest.mark.parametrize(
    ("text", "limit", "fragments"),
    [
        (" 两个字 ", 3, [" 两个字 "]),  # as it is, up to and with the limit
        ("一二三。四.", 3, ["一二三。", "四。"]),
        ("a b c!， ,， d e f g h i j k", 8, ["a b c！", "d e f g h i j k。"]),  # marks alone go to what is before them
        ("今天，好。甲乙，丙丁戊己庚辛。好！ok go", 8, ["今天，好。", "甲乙，丙丁戊己庚辛。", "好！", "ok go。"]),
        ("It is 3.14 in the U.S.A, ok", 10, ["It is 3.14 in the U.S.A，", "ok。"]),  # protected points count
        ("1.2.3，一二", 2, ["1.2。", "3，一二。"]),
    ],
)
def test_cutting_as_released(text: str, limit: int, fragments: list[str]) -> None:
    assert cut(text, limit) == fragments


def test_cutting_keeps_decimals_and_initials_together() -> None:
    pieces = cut(" ".join(["It is 3.14 in the U.S.A today."] * 4), limit=12)
    assert all("3.14" in piece for piece in pieces)
    assert len(pieces) == 4


@given(st.text("ab 一二。，.!?\n1", max_size=200), st.integers(5, 30))
def test_fragments_are_bounded_and_lose_nothing_that_counts(text: str, limit: int) -> None:
    fragments = cut(text, limit)
    assert all(semantic_length(fragment) <= limit for fragment in fragments)
    assert all(fragment.strip() for fragment in fragments)
    counted = [char for char in "".join(fragments) if char in "ab一二1"]
    assert counted == [char for char in text if char in "ab一二1"]


@pytest.mark.parametrize("text", ["", "  \n", "?!...", "()[]{}~`"])
def test_nothing_to_say_gives_nothing(text: str) -> None:
    assert cut(text) == []
    assert segments(ReleasedSegmenter(), text) == segments(SentenceSegmenter(), text) == []


def test_released_rule_flushes_at_twelve_and_then_at_eight() -> None:
    got = segments(ReleasedSegmenter(), "一二三四五六，七八九十甲乙，丙丁戊己庚，辛壬癸子丑寅，")
    # 7 tokens are not enough for the first comma, 14 are; then 6 are not, 13 are.
    assert got == ["一二三四五六，七八九十甲乙，", "丙丁戊己庚，辛壬癸子丑寅，"]


def test_an_empty_end_of_line_counts_as_released() -> None:
    """Eleven characters and what is left of the line's end make twelve."""
    assert segments(ReleasedSegmenter(), "eleven sign\nthen more, here.") == ["eleven sign", "then more, here."]
    assert segments(ReleasedSegmenter(), "eleven sig\nn, and more.") == ["eleven sign, and more."]


def test_released_rule_goes_on_after_punctuation_alone() -> None:
    """The released loop fails here: a dozen marks and nothing to say."""
    assert segments(ReleasedSegmenter(), "!" * 20 + "这句话还是要说的。") == ["!!!!!!!这句话还是要说的。"]


def test_a_decimal_point_at_the_end_of_what_is_known() -> None:
    assert segments(SentenceSegmenter(), "Pi is roughly 3", ".", "14 or so. Next one here.") == [
        "Pi is roughly 3.14 or so.",
        "Next one here.",
    ]


def test_sentences_by_hand() -> None:
    text = "Dr. Smith met J. Doe at noon. He said: “Fine!” And then he left for good. 好。"
    assert segments(SentenceSegmenter(), text) == [
        "Dr. Smith met J. Doe at noon.",
        "He said: “Fine!” And then he left for good.",  # three words alone would not be worth a segment
        "好。",
    ]


def test_only_the_first_segment_may_end_at_a_comma() -> None:
    text = "今天的天气实在是非常不错，我们去公园散步吧。晚上如果有时间的话再去看看电影，好不好？"
    assert segments(SentenceSegmenter(), text) == [
        "今天的天气实在是非常不错，",
        "我们去公园散步吧。",
        "晚上如果有时间的话再去看看电影，好不好？",
    ]


def test_an_address_stays_in_one_piece() -> None:
    text = "See what is at https://a.b/c?d=1,e;f=2 before noon. And then, at last, go."
    assert segments(SentenceSegmenter(), text)[0] == "See what is at https://a.b/c?d=1,e;f=2 before noon."
    assert spoken(make_front_end(), text)[0] == "See what is at before noon."


def test_the_first_segment_is_ready_before_the_text_is() -> None:
    segmenter = SentenceSegmenter()
    assert segmenter.push("This is the first sentence") == []
    assert segmenter.push(". ") == ["This is the first sentence."]
    assert segmenter.push("And the") == []


def spoken(front: TextFrontEnd, *pieces: str) -> list[str]:
    return [segment for piece in pieces for segment in front.push(piece)] + front.finish()


TEXTS = st.text('abcdefgh 一二三四五。，,.!?；:/-\n"”)1234567890０٣$€%°Ckmps😀ж안', max_size=300)


@pytest.mark.parametrize("mode", ["sentence", "released"])
@given(text=TEXTS, size=st.integers(1, 20))
def test_segments_do_not_depend_on_how_text_arrives(mode: SegmentationMode, text: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    got = spoken(make_front_end(mode), *pieces)
    assert got == spoken(make_front_end(mode), text)
    assert all(any(char.isalnum() for char in segment) for segment in got)
    assert all(len(segment) <= MAX_CHARS for segment in got)


@pytest.mark.parametrize("text", ["", "?!...", "。。。", "😀😀", "—", "***", "$$"])
def test_what_cannot_be_said_makes_no_segment(text: str) -> None:
    assert spoken(make_front_end(), text) == []


@pytest.mark.parametrize("text", ["a", "好", "7", "ж"])
def test_one_character_is_a_segment(text: str) -> None:
    assert len(spoken(make_front_end(), text)) == 1


@pytest.mark.parametrize("unit", ["一", "word ", "a", "안녕 ", "12 ", "Это предложение. "])
def test_a_long_text_is_cut_whatever_it_is_written_in(unit: str) -> None:
    text = unit * (2000 // len(unit))
    got = spoken(make_front_end(), text)
    assert 2 <= len(got) <= 60
    assert max(map(len, got)) <= MAX_CHARS
    assert all(segment == segment.strip() for segment in got)
    if not unit[0].isdigit():
        letters = [char for char in "".join(got) if char.isalpha()]
        assert letters == [char for char in text if char.isalpha()]


@pytest.mark.parametrize("unit", ["1,", "![](", "9", "$", "1-"])
def test_no_text_takes_the_talker_away_from_others(unit: str) -> None:
    """Patterns that go back and forth took minutes for the first two, while everybody waited."""
    got = spoken(make_front_end("released"), unit * (4096 // len(unit)))
    assert all(len(segment) <= MAX_CHARS for segment in got)
    assert bool(got) == unit[0].isdigit()
