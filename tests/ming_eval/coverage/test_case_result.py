"""One case's figures, from hand-made records and events."""

from __future__ import annotations

from typing import Any

import pytest

from ming_eval.coverage.case_result import case_result, mentioned
from ming_eval.coverage.cases import load_cases
from ming_eval.coverage.speech import Speech, speech_of
from ming_eval.metrics.audio import PcmFormat, wav_header
from ming_eval.results import CoverageCase
from ming_eval.types import Failure, Reply, Task
from tests.ming_eval.factories import make_record

(SHAPES,) = (case for case in load_cases().cases if case.id == "i2t-shapes")


def result(text: str = "A red circle.", **values: Any) -> CoverageCase:
    record = make_record(task=Task.I2T, num_prompt_tokens=90, **values)
    return case_result(SHAPES, Reply(record, text), make_record(num_prompt_tokens=10))


def test_figures_of_a_case_by_hand() -> None:
    """Sent at 5; four tokens at 5.10, 5.12, 5.14, 5.16: TTFT 100, TPOT 20, E2E 160 ms, 4 / 0.16 = 25 tokens/s."""
    case = result(sent_s=5.0)
    assert (case.backend, case.modality, case.id, case.status, case.reason) == ("a", "I2T", "i2t-shapes", "pass", None)
    assert (case.ttft_ms, case.tpot_ms, case.e2e_ms) == (100.0, pytest.approx(20.0), pytest.approx(160.0))
    assert case.output_tokens_per_s == pytest.approx(25.0)
    assert (case.prompt_tokens, case.control_prompt_tokens, case.media_tokens) == (90, 10, 80)
    (file,) = case.inputs
    assert (file.name, file.kind, file.width, file.height, file.bytes) == (
        "shapes.png",
        "image",
        320,
        240,
        len(SHAPES.media[0].media.data),
    )
    assert (case.mentions, case.mentioned) == (("red", "circle", "blue", "square"), ("red", "circle"))
    assert (case.ttfa_ms, case.rtf, case.stalls, case.audio_s, case.audio_file) == (None,) * 5


def test_a_failed_request_has_no_latency() -> None:
    case = result("", failure=Failure.EARLY_EOF, error="cut", num_output_tokens=4)
    assert (case.status, case.reason, case.failure) == ("fail", "early_eof: cut", "early_eof")
    assert (case.ttft_ms, case.tpot_ms, case.e2e_ms, case.output_tokens_per_s) == (None,) * 4


def test_a_long_answer_is_cut() -> None:
    assert result("x" * 400).output == "x" * 400
    assert result("x" * 401).output == "x" * 400 + "…"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is RED.", ["red"]),
        ("It was rendered", []),  # red is in it, and is no word of it
        ("two discs", ["circle|discs"]),
        ("a disc", []),
        ("春天来了", ["春"]),
        ("The circle is red, 春", ["red", "circle|discs", "春"]),
        ("", []),
    ],
)
def test_mentions_are_whole_words_or_any_alternative(text: str, found: list[str]) -> None:
    assert list(mentioned(text, ("red", "circle|discs", "春"))) == found


def test_speech_figures_by_hand() -> None:
    """Sent at 0; 0.1 s of audio at 1.0 and again at 1.3: total 0.2 s, a gap of 0.2 s after the first has played.

    RTF 1.3 / 0.2 = 6.5, of generation 0.3 / 0.2 = 1.5; one stall; 0.2 s of waiting first would have avoided it.
    """
    times: dict[str, Any] = {"audio_times_s": (1.0, 1.3), "audio_durations_s": (0.1, 0.1)}
    file = wav_header(PcmFormat(16_000), 6400) + b"\0" * 6400
    speech = speech_of(make_record(task=Task.T2S, **times), file)
    assert (speech.rtf, speech.rtf_gen) == (pytest.approx(6.5), pytest.approx(1.5))
    assert (speech.num_stalls, speech.prebuffer_s) == (1, pytest.approx(0.2))
    assert (speech.audio_s, speech.sample_rate_hz) == (pytest.approx(0.2), 16_000)
    assert speech_of(make_record(failure=Failure.RESET, **times), file) == Speech()
    assert speech_of(make_record(), b"") == Speech()
