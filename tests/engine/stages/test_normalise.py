"""Numbers in words and markup away; in other scripts nothing is lost."""

from __future__ import annotations

import pytest

from engine.stages.english_numbers import expand_numbers
from engine.stages.normalise import identity, make_normaliser, remove_markup, remove_markup_with_care


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "For $1.00, $-2,500.50 or £1.",
            "For one point zero zero dollar , minus two thousand, five hundred point five zero dollars or one pound .",
        ),
        ("-5% of 101, 1.2.3", "minus five percent of one hundred one , one point two . three"),
        ("1/2, 2/2, 3/4, 7/8, 5/1", "one half , two halves , three quarters , seven eighth , five first"),
        ("101/102", "one hundred and one one hundred and second"),
        ("12/25/2024", "twelve twenty-fifth / two thousand twenty-four"),
        ("10-20 people", "ten minus twenty people"),
        ("the 3rd of the 101st", "the three of the one hundred and one"),
        ("GPT-4, v2.1, mp101, GPT-4o", "GPT four, v two point one, mp one hundred and one, GPT-4o"),
        ("3.2 GHz, 1 km, 9°C, 5 kmx", "three point two gigahertz , one kilometers , nine degrees celsius , five kmx"),
        ("  a \n 1\t b ", "a one b"),
        ("温度是25度 Celsius in 2014", "温度是25度 Celsius in two thousand fourteen"),
        ("9" * 37 + "% of ,5%", "9" * 37 + " percent of , five percent"),
        ("no numbers", "no numbers"),
        ("", ""),
    ],
)  # fmt: skip
def test_english_numbers_as_released(text: str, words: str) -> None:
    """Checked against the released rules with their library, which these follow to the letter, odd as some are."""
    assert expand_numbers(text) == words


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("On 2024-03-05 at 12:30", "On March fifth, two thousand twenty-four at twelve thirty"),
        ("from 9:05-10:00 pm, 5pm, 12:30am", "from nine oh five to ten pm, five pm, twelve thirty am"),
        ("by 12/25/2024", "by twelve twenty-five two thousand twenty-four"),
        ("the 1980s, the 3rd and 21st", "the nineteen eighties, the third and twenty-first"),
        ("10-20 people, -7 degrees", "ten to twenty people, minus seven degrees"),
        ("call 555-123-4567", "call five five five, one two three, four five six seven"),
        ("version 1.2.3 of 2 a day", "version one point two point three of two a day"),
        ("$5 million, $5k and €5", "five million dollars, five thousand dollars and five euros"),
        ("7/8 and 5/1", "seven eighths and five over one"),
        ("1 km, 80km/h, 1,000 mm", "one kilometer, eighty kilometers per hour, one thousand millimeters"),
        ("see https://a.b/2024/1?c=5,6.", "see ."),
        ("between $5 and $6", "between five dollars and six dollars"),
        ("9" * 40, " ".join(["nine"] * 40)),
    ],
)  # fmt: skip
def test_what_the_released_rules_misread_is_read_first(text: str, spoken: str) -> None:
    assert make_normaliser(identity)(text) == spoken


@pytest.mark.parametrize(
    ("text", "released", "careful"),
    [
        ("能量 $E=mc^2$ 守恒", "能量守恒", None),
        ("从$5到$6元", "从6元", "从$5到$6元"),
        ("见 https://a.b/c?d=1 。 www.x.com好", "见。好", None),
        ("见（https://a.b/c,d），好", "见（,d），好", "见（），好"),
        ("运行`rm -rf`吧", "运行吧", None),
        ("![图](http://x/y.png)说明", "说明", None),
        ("共1,234,567元", "共1234567元", None),
        ("**重要**：***很***", "重要：很", None),
        ("### 标题\n正文", "标题正文", None),
        ("好😀的★√", "好的", None),
        ("你 好 ， 世 界", "你好，世界", None),
        ("看 12 34 元", "看1234元", "看 12 34 元"),  # joined, they are another number
        ("он ушёл .", "онушёл .", "он ушёл ."),
        ("a, b.  c  d", "a, b.  c d", None),
    ],
)
def test_markup(text: str, released: str, careful: str | None) -> None:
    assert remove_markup(text) == released
    assert remove_markup_with_care(text) == (released if careful is None else careful)


def test_order_and_scope() -> None:
    """English numbers first (so that amounts are no formulas), the grammar only on Chinese, no comma in front."""
    normalise = make_normaliser(str.upper)
    assert normalise("from $1 to $2") == "from one dollar to two dollars"
    assert normalise("，ok 好") == "OK 好"
