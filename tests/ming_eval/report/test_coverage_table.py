"""A coverage run as text and as Markdown, from hand-made summaries."""

from __future__ import annotations

from dataclasses import replace

from ming_eval.report.coverage_markdown import coverage_markdown
from ming_eval.report.coverage_table import case_line, coverage_text, input_text
from ming_eval.results import CoverageSummary, InputFile
from ming_eval.types import Task
from tests.ming_eval.coverage.test_summary import case, summary
from tests.ming_eval.factories import make_backend, make_manifest, make_plan

CLIP = InputFile("ball.mp4", "video", "video/mp4", 25_000, 320, 240, 3.0)
SPOKEN = case(
    "T2S", ttfa_ms=150.0, rtf=0.5, rtf_gen=0.4, stalls=2, prebuffer_ms=30.0, audio_s=1.5, sample_rate_hz=24_000
)


def rows(text: str, first: str) -> list[list[str]]:
    """Cells of the lines that begin with a server's name."""
    return [line.split() for line in text.splitlines() if line.startswith(f"{first} ")]


def markdown(found: CoverageSummary) -> str:
    return coverage_markdown(found, make_manifest(make_plan()))


def test_rows_by_hand() -> None:
    text = coverage_text(summary(case("T2T"), case("I2T", mentions=("red", "blue"), mentioned=("red",))))
    assert rows(text, "a") == [
        ["a", "T2T", "pass", "1/3", "100", "10.0", "500", "80.0", "90", "80", "-"],
        ["a", "I2T", "pass", "1/4", "100", "10.0", "500", "80.0", "90", "80", "1.00"],
        ["a", "x", "pass", "text", "100", "10.0", "500", "40", "80.0", "90", "80", "-"],
        ["a", "x", "pass", "320x240", "PNG", "100", "10.0", "500", "40", "80.0", "90", "80", "1/2"],
    ]
    assert '- x: "yes"' in text
    assert "not passed" not in text
    assert "TTFA" not in text


def test_speech_has_columns_of_its_own_and_text_leaves_them_empty() -> None:
    text = coverage_text(summary(case("T2T"), SPOKEN, modalities=(Task.T2T, Task.T2S)))
    modalities, cases = rows(text, "a")[:2], rows(text, "a")[2:]
    assert [row[-6:] for row in modalities] == [["-"] * 6, ["150", "0.500", "0.400", "2", "30.0", "1.50"]]
    assert [row[-7:] for row in cases] == [["-"] * 7, ["150", "0.500", "0.400", "2", "30.0", "1.50", "24000"]]


def test_what_did_not_pass_is_listed_with_its_reason() -> None:
    found = summary(case("T2T"), case("I2T", "fail", reason="media ignored: 1 with it, 1 without"))
    assert "not passed\n- x: fail, media ignored: 1 with it, 1 without\n" in coverage_text(found)
    assert coverage_text(found).endswith(f"\nerrors: {found.verdict.reason}\n")
    assert "## Not passed\n\n- a `x`: fail, media ignored: 1 with it, 1 without\n" in markdown(found)


def test_a_long_or_broken_answer_stays_on_its_line() -> None:
    text = coverage_text(summary(case("T2T", output="one\n\ntwo  " + "x" * 300), case("I2T", output=" \n")))
    assert f'- x: "one two {"x" * 62}…"\n' in text
    assert "- x: no text\n" in text


def test_an_answer_cannot_leave_its_fence() -> None:
    answer = "```\n# not a heading\n```"
    assert f"````text\n{answer}\n````" in markdown(summary(case("T2T", output=answer)))


def test_meaningless_answers_are_called_so() -> None:
    found = replace(summary(case("T2T")), backends=(make_backend(launched=True),), command=("ming-eval", "coverage"))
    assert "mean nothing" in coverage_text(found)
    assert "mean nothing" in markdown(found)
    loaded = replace(found, command=("ming-eval", "coverage", "--model=./Ming"))
    assert "mean nothing" not in coverage_text(loaded)
    assert "mean nothing" not in coverage_text(summary(case("T2T")))


def test_inputs_in_a_few_words() -> None:
    picture = InputFile("a.png", "image", "image/png", 100, 640, 480, None)
    sound = InputFile("b.flac", "audio", "audio/flac", 100, None, None, 2.4)
    assert input_text((picture, sound, CLIP)) == "640x480 PNG + 2.4 s FLAC + 320x240 3 s MP4"
    assert input_text(()) == "text"


def test_the_line_of_a_case_that_has_ended() -> None:
    assert case_line(case("I2T")) == "a x: pass, TTFT 100 ms, 80.0 tok/s"
    assert case_line(SPOKEN) == "a x: pass, TTFT 100 ms, 80.0 tok/s, 1.50 s of audio, RTF 0.500"
    assert case_line(case("I2T", "unsupported", reason="HTTP 400: no")) == "a x: unsupported, HTTP 400: no"
