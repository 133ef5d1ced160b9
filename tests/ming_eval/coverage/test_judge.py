"""Pass, fail and unsupported, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from ming_eval.coverage.judge import Judgement, Status, judge, media_tokens
from ming_eval.types import Failure, RequestRecord, Task
from tests.ming_eval.factories import make_record

PASS = Judgement(Status.PASS)


def record(task: Task = Task.I2T, **values: Any) -> RequestRecord:
    return make_record(task=task, **values)


def refused(error: str, status: int = 400, task: Task = Task.I2T) -> RequestRecord:
    return record(task, failure=Failure.HTTP_4XX, http_status=status, error=f"HTTP {status}: {error}")


CONTROL = make_record(id="control", num_prompt_tokens=10)


# --- Media -------------------------------------------------------------------------------------------------------


def test_media_that_adds_prompt_tokens_passes() -> None:
    assert judge(record(num_prompt_tokens=11), CONTROL, None, has_media=True) == PASS
    assert media_tokens(record(num_prompt_tokens=90), CONTROL) == 80


@pytest.mark.parametrize("num_prompt_tokens", [10, 9])
def test_media_that_adds_nothing_was_ignored(num_prompt_tokens: int) -> None:
    found = judge(record(num_prompt_tokens=num_prompt_tokens), CONTROL, None, has_media=True)
    assert found == Judgement(Status.FAIL, f"media ignored: {num_prompt_tokens} prompt tokens with it, 10 without")


def test_without_counts_nothing_shows_that_media_was_read() -> None:
    uncounted = judge(record(num_prompt_tokens=None), CONTROL, None, has_media=True)
    assert uncounted.status is Status.FAIL
    assert "no prompt tokens are reported" in str(uncounted.reason)
    broken = make_record(num_prompt_tokens=None, failure=Failure.RESET, error="connection reset")
    control_failed = judge(record(num_prompt_tokens=90), broken, None, has_media=True)
    assert control_failed.status is Status.FAIL
    assert "reset: connection reset" in str(control_failed.reason)
    assert media_tokens(record(num_prompt_tokens=90), broken) is None


def test_a_failed_control_that_still_counted_its_prompt_is_enough() -> None:
    """One token can be an end token: the reply is empty, its prompt was counted."""
    empty = make_record(num_prompt_tokens=10, failure=Failure.EMPTY, error="no output")
    assert judge(record(num_prompt_tokens=90), empty, None, has_media=True) == PASS


def test_text_needs_no_control_and_output_tokens() -> None:
    assert judge(record(Task.T2T), None, None, has_media=False) == PASS
    assert judge(record(Task.T2T, num_output_tokens=None), None, None, has_media=False) == Judgement(
        Status.FAIL, "the reply holds no output tokens"
    )


# --- Failures and refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (Task.I2T, "image input is not available on this server"),
        (Task.I2T, "At most 0 image(s) may be provided in one prompt."),
        (Task.I2T, "Invalid content type. image_url is only supported by certain models."),
        (Task.I2T, "fake-model is not a multimodal model"),
        (Task.I2T, "[{'loc': ('content', 0, 'type'), 'msg': \"Input should be 'text'\", 'input': 'image_url'}]"),
        (Task.A2T, "Unknown part type: input_audio"),
        (Task.V2T, "messages[0].content[0].type must be one of text, image_url, got 'video_url'"),
        (Task.T2S, "modalities: audio output is not supported by this model"),
        (Task.I2S, "audio is not available: the server runs without a talker"),
        (Task.V2S, "video parts are not supported"),
    ],
)
def test_a_clear_refusal_is_unsupported(task: Task, error: str) -> None:
    assert judge(refused(error, task=task), CONTROL, None, has_media=True) == Judgement(
        Status.UNSUPPORTED, f"HTTP 400: {error}"
    )


@pytest.mark.parametrize(
    "failed",
    [
        refused("cannot decode the image"),  # it wanted to
        refused("the video part is not supported"),  # an image was sent
        refused("temperature must be between 0 and 2"),
        refused("max_tokens is not supported"),  # names no modality
        refused("text input is not supported", task=Task.T2T),  # nothing can do without text
        record(failure=Failure.HTTP_5XX, http_status=500, error="HTTP 500: image input is not supported"),
        record(failure=Failure.HTTP_4XX, http_status=307, error="HTTP 307: image input is not supported here"),
        record(failure=Failure.HTTP_429, http_status=429, error="HTTP 429: image queue is not available"),
    ],
)
def test_any_other_failure_is_a_fail_with_its_class(failed: RequestRecord) -> None:
    found = judge(failed, CONTROL, None, has_media=True)
    assert found == Judgement(Status.FAIL, f"{failed.failure}: {failed.error}")


def test_a_server_that_refuses_everything_does_not_refuse_the_image() -> None:
    control = make_record(failure=Failure.HTTP_4XX, http_status=404, error="HTTP 404: unknown model")
    assert judge(refused("unknown vision model"), control, None, has_media=True).status is Status.FAIL


# --- Speech ------------------------------------------------------------------------------------------------------


def test_speech_with_samples_and_a_rate_passes_without_any_token() -> None:
    spoken = record(Task.T2S, num_output_tokens=None, num_audio_bytes=4800, audio_s=0.1)
    assert judge(spoken, None, 24_000, has_media=False) == PASS


def test_speech_that_cannot_be_played_fails() -> None:
    header_alone = record(Task.T2S, num_audio_bytes=0, audio_s=None)
    assert judge(header_alone, None, None, has_media=False) == Judgement(Status.FAIL, "audio came without samples")
    unknown_rate = judge(record(Task.T2S, num_audio_bytes=4800, audio_s=None), None, None, has_media=False)
    assert unknown_rate.status is Status.FAIL
    assert "sample rate" in str(unknown_rate.reason)


def test_media_counts_for_speech_too() -> None:
    spoken = record(Task.I2S, num_prompt_tokens=10, num_audio_bytes=4800, audio_s=0.1)
    assert "media ignored" in str(judge(spoken, CONTROL, 24_000, has_media=True).reason)
