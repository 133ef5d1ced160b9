"""Numbers as a Chinese reader says them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.stages.chinese_numbers import cardinal, read_chinese_numbers
from engine.stages.text import make_front_end


@pytest.mark.parametrize(
    ("digits", "said"),
    [
        ("0", "零"),
        ("7", "七"),
        ("10", "十"),
        ("12", "十二"),
        ("20", "二十"),
        ("105", "一百零五"),
        ("110", "一百一十"),
        ("1001", "一千零一"),
        ("1010", "一千零一十"),
        ("2000", "两千"),
        ("22222", "两万二千二百二十二"),
        ("10203", "一万零二百零三"),
        ("100000", "十万"),
        ("120000", "十二万"),
        ("10000001", "一千万零一"),
        ("100010000", "一亿零一万"),
        ("1234567890123", "一万亿二千三百四十五亿六千七百八十九万零一百二十三"),
    ],
)
def test_whole_numbers(digits: str, said: str) -> None:
    assert cardinal(digits) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2024年3月5日", "二零二四年三月五日"),
        ("2024-03-05的会议", "二零二四年三月五日的会议"),
        ("1998年出生", "一九九八年出生"),
        ("20年前", "二十年前"),
        ("５％和٠次", "百分之五和零次"),
        ("等了2年", "等了两年"),
        ("3月5日", "三月五日"),
        ("早上8:30起床", "早上八点三十分起床"),
        ("9:05到10:00", "九点零五分到十点"),
        ("2:00", "两点"),
        ("20:15:30", "二十点十五分三十秒"),
        ("比分是3:2", "比分是三比二"),
        ("增长35.5%", "增长百分之三十五点五"),
        ("10%-20%的人", "百分之十到百分之二十的人"),
        ("5‰", "千分之五"),
        ("3/4的人", "四分之三的人"),
        ("气温-5℃", "气温零下五摄氏度"),
        ("37.5°C", "三十七点五摄氏度"),
        ("￥99.5", "九十九点五元"),
        ("$3万", "三万美元"),
        ("电话13812345678", "电话幺三八幺二三四五六七八"),
        ("010-12345678", "零幺零幺二三四五六七八"),
        ("400-800-1234", "四零零八零零幺二三四"),
        ("编号123456789012", "编号一二三四五六七八九零一二"),
        ("编号007", "编号零零七"),
        ("走了3km", "走了三公里"),
        ("2kg苹果", "两公斤苹果"),
        ("时速120km/h", "时速一百二十公里每小时"),
        ("面积80㎡", "面积八十平方米"),
        ("2个人", "两个人"),
        ("第2个", "第二个"),
        ("12个", "十二个"),
        ("2万", "两万"),
        ("版本1.2.3", "版本一点二点三"),
        ("3+5=8", "三加五等于八"),
        ("10-20人", "十到二十人"),
        ("是-3", "是-三"),
        ("（-3）", "（负三）"),
        ("圆周率3.14", "圆周率三点一四"),
        ("５０％", "百分之五十"),
        ("5G手机", "五G手机"),
        ("没有数字", "没有数字"),
    ],
)
def test_in_a_sentence(text: str, said: str) -> None:
    assert read_chinese_numbers(text) == said


@given(st.text(alphabet="0123456789.:/-%年月日个km¥℃第 好", max_size=24))
def test_no_digit_is_left_and_nothing_else_is_lost(text: str) -> None:
    said = read_chinese_numbers(text)
    assert not re.search(r"[0-9]", said)
    assert said.count("好") == text.count("好")


def test_the_front_end_reads_them() -> None:
    front = make_front_end()
    spoken = front.push("今天是2024年3月5日，气温是25℃。") + front.finish()
    assert "".join(spoken) == "今天是二零二四年三月五日，气温是二十五摄氏度。"
    assert make_front_end().push("It is 25 degrees today, is it not?") == ["It is twenty-five degrees today,"]
