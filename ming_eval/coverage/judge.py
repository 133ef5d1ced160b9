"""Whether a case passed: pure, from what its request and its control did.

A complete reply is not enough. A server that drops the media answers well enough to fool a status code, so its count
of prompt tokens decides: the same prompt without the media must be shorter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ming_eval.types import Failure, RequestRecord, Task


class Status(StrEnum):
    """How a case or a modality came out."""

    PASS = "pass"
    FAIL = "fail"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A status, and why it is no pass."""

    status: Status
    reason: str | None = None


# How servers name a kind of input or output when they refuse it, by the letters of `Task`.
_NAMES = {
    "I": "image|picture|vision",
    "A": "audio|sound|speech",
    "V": "video",
    "S": "audio|speech|voice",
}
_GENERAL_NAME = "multi-?modal|modalit|content type|part type|content part"
_REFUSAL = re.compile(
    r"support|not available|unavailable|not allowed|not accepted|not enabled|disabled|not implemented|at most 0"
    r"|unknown|unrecogni[sz]ed|must be one of|input should be|text[- ]only|only text|not a multi-?modal",
    re.IGNORECASE,
)


def judge(
    record: RequestRecord, control: RequestRecord | None, sample_rate_hz: int | None, *, has_media: bool
) -> Judgement:
    """The status of a case; `sample_rate_hz` is that of the speech in its reply, None where nobody states one."""
    if record.failure is not None:
        return _judge_failed(record, control)
    if record.task.value.endswith("S"):
        reason = _speech_fault(record, sample_rate_hz)
    else:
        reason = None if record.num_output_tokens else "the reply holds no output tokens"
    if reason is None and has_media:
        reason = _media_fault(record, control)
    return Judgement(Status.PASS) if reason is None else Judgement(Status.FAIL, reason)


def media_tokens(record: RequestRecord, control: RequestRecord | None) -> int | None:
    """Prompt tokens that the media added; None where a count is missing."""
    if control is None or record.num_prompt_tokens is None or control.num_prompt_tokens is None:
        return None
    return record.num_prompt_tokens - control.num_prompt_tokens


def _judge_failed(record: RequestRecord, control: RequestRecord | None) -> Judgement:
    assert record.failure is not None
    if _is_refusal(record) and (control is None or control.http_status == 200):
        return Judgement(Status.UNSUPPORTED, record.error)
    return Judgement(Status.FAIL, f"{record.failure}: {record.error}")


def _is_refusal(record: RequestRecord) -> bool:
    """True for a client error whose message names what this task has and text has not."""
    if record.failure is not Failure.HTTP_4XX or not 400 <= (record.http_status or 0) < 500:
        return False
    if record.task is Task.T2T or record.error is None:
        return False
    names = [_NAMES[letter] for letter in (record.task.value[0], record.task.value[-1]) if letter in _NAMES]
    is_named = re.search("|".join([*names, _GENERAL_NAME]), record.error, re.IGNORECASE)
    return is_named is not None and _REFUSAL.search(record.error) is not None


def _speech_fault(record: RequestRecord, sample_rate_hz: int | None) -> str | None:
    if not record.num_audio_bytes:
        return "audio came without samples"
    if sample_rate_hz is None or record.audio_s is None:
        return "audio came and nothing says its sample rate: it cannot be played"
    return None if record.audio_s > 0 else "the audio is 0 s long"


def _media_fault(record: RequestRecord, control: RequestRecord | None) -> str | None:
    assert control is not None, "a case with media has a control"
    added = media_tokens(record, control)
    if record.num_prompt_tokens is None:
        return "no prompt tokens are reported: nothing shows that the media was read"
    if added is None:
        why = f" ({control.failure}: {control.error})" if control.failure is not None else ""
        return f"no prompt tokens are reported for the prompt without media{why}: nothing shows that it was read"
    if added > 0:
        return None
    return f"media ignored: {record.num_prompt_tokens} prompt tokens with it, {control.num_prompt_tokens} without"
