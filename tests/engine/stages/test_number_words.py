from __future__ import annotations

import pytest

from engine.stages.number_words import cardinal, decimal, ordinal


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("0", "zero"),
        ("000", "zero"),
        ("０", "zero"),
        ("007", "seven"),
        ("13", "thirteen"),
        ("20", "twenty"),
        ("21", "twenty-one"),
        ("100", "one hundred"),
        ("101", "one hundred one"),
        ("999", "nine hundred ninety-nine"),
        ("1000", "one thousand"),
        ("2014", "two thousand fourteen"),
        ("2114", "two thousand, one hundred fourteen"),
        ("1000000", "one million"),
        ("1000001", "one million one"),
        ("1234567", "one million, two hundred thirty-four thousand, five hundred sixty-seven"),
        ("10000000000", "ten billion"),
        ("999000000000000", "nine hundred ninety-nine trillion"),
        ("1" + "0" * 35, "one hundred decillion"),
    ],
)
def test_cardinals(digits: str, words: str) -> None:
    assert cardinal(digits) == words


def test_decimals_are_read_digit_by_digit() -> None:
    assert decimal("3.50") == "three point five zero"
    assert decimal("0.05") == "zero point zero five"
    assert decimal("12") == "twelve"
    assert decimal(".5") == "zero point five"


def test_a_link_stands_before_what_is_below_a_hundred() -> None:
    assert cardinal("101", "and") == "one hundred and one"
    assert cardinal("1001", "and") == "one thousand and one"
    assert cardinal("1234100", "and") == "one million, two hundred and thirty-four thousand, one hundred"


@pytest.mark.parametrize("text", ["1" + "0" * 36, "1.2.3", "1,5", "1."])
def test_what_has_no_words_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"digits|decimals|invalid literal"):
        decimal(text)


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("0", "zeroth"),
        ("1", "first"),
        ("2", "second"),
        ("3", "third"),
        ("4", "fourth"),
        ("5", "fifth"),
        ("8", "eighth"),
        ("9", "ninth"),
        ("12", "twelfth"),
        ("20", "twentieth"),
        ("32", "thirty-second"),
        ("100", "one hundredth"),
        ("1011", "one thousand eleventh"),
    ],
)
def test_ordinals(digits: str, words: str) -> None:
    assert ordinal(cardinal(digits)) == words
