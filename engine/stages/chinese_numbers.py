"""Numbers in Chinese text as they are read aloud: "2024年3月5日" is "二零二四年三月五日", "35%" is "百分之三十五".

What a number means is told by what stands around it, so the rules run in a fixed order, the most specific first; what
no rule knows is read as a plain number, or digit by digit where it is too long to be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")
_MYRIADS = ("", "万", "亿", "万亿")
_MAX_DIGITS = 4 * len(_MYRIADS)
_SERIAL_DIGITS = 9  # so many without a unit are a number to dial or to look up

_NUMBER = r"\d+(?:\.\d+)?"
_TO = r"\s*[-~～—–至到]\s*"
_NOT_INSIDE = r"(?<![\d.A-Za-z])"

# After these the number two is 两.
_MEASURES = "个只条张本位名人天年次种件辆台家间岁周页倍股份枚颗块头匹座栋层棵朵碗杯瓶双对套支根片場场点分秒元吨斤里"
_UNITS = {
    "km/h": "公里每小时",
    "m/s": "米每秒",
    "km²": "平方公里",
    "km2": "平方公里",
    "cm²": "平方厘米",
    "m²": "平方米",
    "m2": "平方米",
    "㎡": "平方米",
    "m³": "立方米",
    "m3": "立方米",
    "km": "公里",
    "cm": "厘米",
    "mm": "毫米",
    "kg": "公斤",
    "mg": "毫克",
    "ml": "毫升",
    "mL": "毫升",
    "kWh": "千瓦时",
    "kW": "千瓦",
    "MW": "兆瓦",
    "GHz": "吉赫兹",
    "MHz": "兆赫兹",
    "kHz": "千赫兹",
    "Hz": "赫兹",
    "min": "分钟",
    "m": "米",
    "g": "克",
    "L": "升",
    "t": "吨",
    "h": "小时",
    "s": "秒",
    "W": "瓦",
    "V": "伏",
    "A": "安",
}
_UNIT = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_CURRENCIES = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_SIGNS = {"+": "加", "-": "减", "−": "减", "×": "乘", "*": "乘", "÷": "除以", "=": "等于"}
_FULL_WIDTH = {ord("％"): "%", ord("．"): "."}

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def read_chinese_numbers(text: str) -> str:
    """`text` with its numbers in characters."""
    text = re.sub(r"\d", lambda digit: str(int(digit[0])), text.translate(_FULL_WIDTH))  # of any script
    for pattern, say in _RULES:
        text = pattern.sub(say, text)
    return text


def cardinal(digits: str) -> str:
    """A whole number: "10203" is 一万零二百零三; what is too long is read digit by digit."""
    stripped = digits.lstrip("0")
    if not stripped:
        return _DIGITS[0]
    if len(stripped) > _MAX_DIGITS:
        return spell(digits)
    groups = [stripped[max(0, end - 4) : end] for end in range(len(stripped), 0, -4)]
    said, is_gap = "", False
    for group, myriad in reversed(list(zip(groups, _MYRIADS, strict=False))):
        value = int(group)
        if value == 0:
            is_gap = True
            continue
        if said and (is_gap or value < 1000):
            said += "零"
        said += _below_myriad(value) + myriad
        is_gap = False
    if said.startswith(("二千", "二万", "二亿")):
        said = "两" + said[1:]
    return said.removeprefix("一") if said.startswith("一十") else said


def number(text: str) -> str:
    """A number that may have decimals, which are read digit by digit."""
    whole, _, fraction = text.partition(".")
    return f"{cardinal(whole)}点{spell(fraction)}" if fraction else cardinal(whole)


def spell(digits: str) -> str:
    """Digit after digit."""
    return "".join(_DIGITS[int(digit)] for digit in digits)


def _below_myriad(value: int) -> str:
    said, is_gap = "", False
    for place in range(3, -1, -1):
        digit = value // 10**place % 10
        if digit == 0:
            is_gap = bool(said)
            continue
        said += ("零" if is_gap else "") + _DIGITS[digit] + _PLACES[place]
        is_gap = False
    return said


def _dialled(match: re.Match[str]) -> str:
    """On the telephone a one is 幺, so that it is not heard as a seven."""
    return spell(re.sub(r"\D", "", match[0])).replace("一", "幺")


def _date(match: re.Match[str]) -> str:
    year, month, day = match.group("y", "m", "d")
    return f"{spell(year)}年{cardinal(month)}月" + (f"{cardinal(day)}日" if day else "")


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match.group("h", "m", "s")
    said = _two(cardinal(hour)) + "点"
    if int(minute) or second:
        said += _after_hour(minute) + "分"
    return said + (_after_hour(second) + "秒" if second else "")


def _after_hour(digits: str) -> str:
    return ("零" if digits.startswith("0") and int(digits) else "") + cardinal(digits)


def _two(said: str) -> str:
    """Two of something is 两."""
    return "两" if said == "二" else said


def _degrees(match: re.Match[str]) -> str:
    scale = "华氏度" if "F" in match["u"] or match["u"] == "℉" else "摄氏度"
    return ("零下" if match["sign"] else "") + number(match["n"]) + scale


def _percent(match: re.Match[str]) -> str:
    of = {"%": "百分之", "‰": "千分之"}[match["u"]]
    sign = "负" if match["sign"] else ""
    upper = f"到{of}{number(match['to'])}" if match["to"] else ""
    return f"{sign}{of}{number(match['n'])}{upper}"


def _plain(match: re.Match[str]) -> str:
    digits = match[0]
    if "." not in digits and (len(digits) >= _SERIAL_DIGITS or (len(digits) > 1 and digits.startswith("0"))):
        return spell(digits)
    return number(digits)


_RULES: tuple[Rule, ...] = (
    # Dates.
    (re.compile(r"(?<!\d)(?P<y>\d{4})([-/.])(?P<m>0?[1-9]|1[0-2])\2(?P<d>0?[1-9]|[12]\d|3[01])(?![\d.])"), _date),
    (re.compile(r"(?<!\d)(?P<y>\d{4})\s*年\s*(?P<m>\d{1,2})\s*月(?:\s*(?P<d>\d{1,2})\s*日)?"), _date),
    (re.compile(r"(?<!\d)(\d{4}|\d{2})(?=\s*年(?!前|后|来|间|内|以|的|多))"), lambda m: spell(m[1])),
    # Numbers to dial.
    (
        re.compile(r"(?<![\d-])(?:1[3-9]\d{9}|1[3-9]\d-\d{4}-\d{4}|0\d{2,3}-\d{7,8}|[48]00-\d{3}-?\d{4})(?!\d)"),
        _dialled,
    ),
    # Times of day, also as a span.
    (re.compile(rf"(?<=:[0-5]\d){_TO}(?=\d{{1,2}}:[0-5]\d)"), lambda _: "到"),
    (re.compile(r"(?<![\d:])(?P<h>[01]?\d|2[0-4])[:：](?P<m>[0-5]\d)(?:[:：](?P<s>[0-5]\d))?(?![\d:])"), _clock),
    (re.compile(r"(?<![\d:：])(\d+)[:：](\d+)(?![\d:：])"), lambda m: f"{cardinal(m[1])}比{cardinal(m[2])}"),
    # Money, shares, degrees.
    (re.compile(rf"([¥￥$€£])\s*({_NUMBER})([万亿]*)"), lambda m: number(m[2]) + m[3] + _CURRENCIES[m[1]]),
    (re.compile(rf"{_NOT_INSIDE}(?P<sign>[-−])?(?P<n>{_NUMBER})%?(?:{_TO}(?P<to>{_NUMBER}))?(?P<u>[%‰])"), _percent),
    (re.compile(rf"{_NOT_INSIDE}(?P<sign>[-−])?(?P<n>{_NUMBER})\s*(?P<u>℃|°C|℉|°F)"), _degrees),
    (re.compile(r"(?<![\d/.])(\d{1,4})/(\d{1,4})(?![\d/.])"), lambda m: f"{cardinal(m[2])}分之{cardinal(m[1])}"),
    # Versions and addresses.
    (re.compile(r"\d+(?:\.\d+){2,}"), lambda m: "点".join(map(cardinal, m[0].split(".")))),
    # Sums, spans, signs.
    (re.compile(r"(?<=\d)\s*([+×*÷=])\s*(?=[\d-])"), lambda m: _SIGNS[m[1]]),
    (re.compile(rf"(?<=\d){_TO}(?=\d)"), lambda _: "到"),
    (re.compile(r"(?<![\dA-Za-z\u4e00-\u9fff])[-−](?=\d)"), lambda _: "负"),
    # Units, and two of something.
    (
        re.compile(rf"(?P<n>{_NUMBER})\s*(?P<u>{_UNIT})(?![A-Za-z])"),
        lambda m: _two(number(m["n"])) + _UNITS[m["u"]],
    ),
    (re.compile(rf"(?<![\d.第])2(?=[{_MEASURES}])(?!2[月日号])"), lambda _: "两"),
    (re.compile(r"(?<![\d.第])2(?=[万亿])"), lambda _: "两"),
    (re.compile(_NUMBER), _plain),
)
