from __future__ import annotations

import pytest

from ming_eval.evals.item import Item, Outcome, Reason, Reply
from ming_eval.evals.scoring.speech import Spoken, audio_fault, expected_s, score_speech, speech_tokens
from ming_eval.evals.scoring.transcript import ERRORS

TEN_WORDS = "one two three four five six seven eight nine ten"


def test_expected_duration() -> None:
    assert expected_s(TEN_WORDS) == pytest.approx(4.0)
    assert expected_s("今天天气很好") == pytest.approx(6 * 0.22)
    assert expected_s("我用 Python 写") == pytest.approx(3 * 0.22 + 0.4)


@pytest.mark.parametrize(
    ("spoken", "fault"),
    [
        (Spoken(4.0, 24000), None),
        (Spoken(1.2, 24000), None),
        (Spoken(12.0, 24000), None),
        (Spoken(1.1, 24000), "1.10 s"),
        (Spoken(12.1, 24000), "12.10 s"),  # what a header with a third of the rate gives
        (Spoken(None), "cannot be decoded"),
        (Spoken(4.0, 24000, announced_rate_hz=16000), "16000 Hz were announced"),
        (Spoken(4.0, 24000, announced_rate_hz=24000), None),
    ],
)
def test_audio_is_checked_before_it_is_scored(spoken: Spoken, fault: str | None) -> None:
    found = audio_fault(spoken, TEN_WORDS)
    assert found is None if fault is None else found is not None and fault in found


def test_errors_of_what_was_heard() -> None:
    item = Item("s", "", TEN_WORDS)
    score = score_speech(item, Reply("", transcript="One, two, three, four, five, six, seven, ate, nine."), Spoken(4.0))
    assert score.tallies[ERRORS] == (2.0, 10.0)
    assert score.outcome is Outcome.WRONG


def test_faulty_audio_is_an_error_with_every_word_lost() -> None:
    score = score_speech(Item("s", "", TEN_WORDS), Reply("", transcript=TEN_WORDS), Spoken(40.0))
    assert (score.outcome, score.reason, score.tallies[ERRORS]) == (Outcome.ERROR, Reason.AUDIO, (10.0, 10.0))


def test_speech_tokens_keep_the_apostrophe_and_split_chinese() -> None:
    assert speech_tokens("Don't stop, 你好!") == ["don't", "stop", "你", "好"]
