"""Numbers in words and markup away; in other scripts nothing is lost."""

from __future__ import annotations

import pytest

from engine.stages.english_numbers import expand_numbers
from engine.stages.normalise import make_normaliser, remove_markup


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It costs $1 or $2,500.50.", "It costs one dollar or two thousand, five hundred point five zero dollars ."),
        ("£20 note", "twenty pounds note"),
        ("12.5% off", "twelve point five percent off"),
        ("1/2, 3/4 and 7/8", "one half, three quarters and seven eighths"),
        ("5/1", "five over one"),
        ("on 12/25/2024", "on twelve/twenty-five/two thousand twenty-four"),  # a date is no fraction
        ("the 3rd of 21st", "the three of twenty-one"),  # as released
        ("GPT-4, v2 and mp3", "GPT four, v two and mp three"),
        ("GPT-4o and H2O", "GPT-4o and H2O"),
        ("3.2 GHz, 1 km, 2 km", "three point two gigahertz, one kilometer, two kilometers"),
        ("80km/h", "eighty kilometers per hour"),
        ("5 kmx", "five kmx"),
        ("21°C", "twenty-one degrees Celsius"),
        ("  a \n 1\t b ", "a one b"),
        ("温度是25度 Celsius in 2014", "温度是25度 Celsius in two thousand fourteen"),
        ("no numbers", "no numbers"),
        ("", ""),
    ],
)  # fmt: skip
def test_english_numbers(text: str, words: str) -> None:
    assert expand_numbers(text) == words


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("能量 $E=mc^2$ 守恒", "能量守恒"),
        ("见 https://a.b/c?d=1 。", "见。"),
        ("运行`rm -rf`吧", "运行吧"),
        ("![图](http://x/y.png)说明", "说明"),
        ("共1,234,567元", "共1234567元"),
        ("**重要**：***很***", "重要：很"),
        ("### 标题\n正文", "标题正文"),
        ("好😀的★", "好的"),
        ("你 好 ， 世 界", "你好，世界"),
        ("看 12 34 元", "看 12 34 元"),  # joined, they would be another number
        ("он ушёл .  안녕 하세요", "он ушёл .  안녕 하세요"),
        ("a, b", "a, b"),
    ],
)
def test_markup(text: str, clean: str) -> None:
    assert remove_markup(text) == clean


def test_order_and_scope() -> None:
    """English numbers first (so that amounts are no formulas), the grammar only on Chinese, no comma in front."""
    normalise = make_normaliser(str.upper)
    assert normalise("from $1 to $2") == "from one dollar to two dollars"
    assert normalise("，ok 好") == "OK 好"
