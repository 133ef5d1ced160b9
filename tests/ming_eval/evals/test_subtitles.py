from __future__ import annotations

from pathlib import Path

import pytest

from ming_eval.evals.subtitles import Line, on_screen, parse_srt, subtitle_block, without_repeats

SRT = """\ufeff1
00:00:01,000 --> 00:00:03,000
<i>Good morning,</i>
everyone.

2
00:00:05,500 --> 00:00:06,500
{\\an8}Good morning, everyone.

3
00:00:09,000 --> 00:00:10,000
Goodbye.

4
00:00:04,000 --> 00:00:04,500
Early.
"""


def test_parsing_drops_markup_and_orders_by_time() -> None:
    assert parse_srt(SRT) == [
        Line(1.0, 3.0, "Good morning, everyone."),
        Line(4.0, 4.5, "Early."),
        Line(5.5, 6.5, "Good morning, everyone."),
        Line(9.0, 10.0, "Goodbye."),
    ]
    assert parse_srt(SRT.replace("\n", "\r\n")) == parse_srt(SRT)
    assert parse_srt("nothing here") == []


def test_lines_on_screen_at_a_time() -> None:
    lines = parse_srt(SRT)
    assert [line.text for line in on_screen(lines, [2.0, 9.0])] == ["Good morning, everyone.", "Goodbye."]
    assert on_screen(lines, [3.5]) == []


def test_a_line_is_kept_once() -> None:
    assert without_repeats(["a", "b", "a"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("times_s", "block"),
    [
        (None, "Good morning, everyone.\nEarly.\nGoodbye."),
        ([2.5, 7.5], "Good morning, everyone."),
        ([3.5], None),
    ],
)
def test_the_block_of_a_prompt(tmp_path: Path, times_s: list[float] | None, block: str | None) -> None:
    path = tmp_path / "a.srt"
    path.write_text(SRT, encoding="utf-8")
    assert subtitle_block(path, times_s) == block
