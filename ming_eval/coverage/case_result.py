"""One case that has ended -> its entry in `summary.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ming_eval.coverage.cases import Case, MediaFile
from ming_eval.coverage.judge import Status, judge, media_tokens
from ming_eval.coverage.speech import speech_of
from ming_eval.metrics import latency
from ming_eval.results import CoverageCase, InputFile
from ming_eval.types import Reply, RequestRecord

_EXCERPT_CHARS = 400


def case_result(case: Case, reply: Reply, control: RequestRecord | None, audio_file: str | None = None) -> CoverageCase:
    """Figures and status of one case.

    `control` is the same prompt without media, there when the case has some; `audio_file` where the speech was saved.
    """
    record, speech = reply.record, speech_of(reply.record, reply.audio)
    judgement = judge(record, control, speech.sample_rate_hz, has_media=bool(case.media))
    e2e_s = latency.e2e_s(record)
    said = reply.text or reply.reasoning
    return CoverageCase(
        backend=record.backend,
        modality=case.task.value,
        id=case.id,
        status=judgement.status.value,
        reason=judgement.reason,
        prompt=case.prompt,
        inputs=tuple(_input(file) for file in case.media),
        failure=record.failure,
        http_status=record.http_status,
        finish_reason=record.finish_reason,
        ttft_ms=_ms(latency.ttft_s(record)),
        tpot_ms=_ms(latency.tpot_s(record)),
        e2e_ms=_ms(e2e_s),
        output_tokens=record.num_output_tokens,
        token_source=record.token_source,
        output_tokens_per_s=record.num_output_tokens / e2e_s if record.num_output_tokens and e2e_s else None,
        prompt_tokens=record.num_prompt_tokens,
        cached_tokens=record.num_cached_tokens,
        control_prompt_tokens=None if control is None else control.num_prompt_tokens,
        media_tokens=media_tokens(record, control),
        output=said if len(said) <= _EXCERPT_CHARS else f"{said[:_EXCERPT_CHARS]}…",
        mentions=case.mentions,
        mentioned=tuple(mentioned(said, case.mentions)),
        ttfa_ms=_ms(latency.ttfa_s(record)),
        rtf=speech.rtf,
        rtf_gen=speech.rtf_gen,
        stalls=speech.num_stalls,
        prebuffer_ms=_ms(speech.prebuffer_s),
        audio_s=speech.audio_s,
        sample_rate_hz=speech.sample_rate_hz,
        audio_file=audio_file,
    )


def unsent_case(case: Case, backend: str, reason: str) -> CoverageCase:
    """A case that cannot be written in the dialect of its server: unsupported, and nothing was sent."""
    return CoverageCase(
        backend=backend,
        modality=case.task.value,
        id=case.id,
        status=Status.UNSUPPORTED.value,
        reason=reason,
        prompt=case.prompt,
        inputs=tuple(_input(file) for file in case.media),
        failure=None,
        http_status=None,
        finish_reason=None,
        ttft_ms=None,
        tpot_ms=None,
        e2e_ms=None,
        output_tokens=None,
        token_source=None,
        output_tokens_per_s=None,
        prompt_tokens=None,
        cached_tokens=None,
        control_prompt_tokens=None,
        media_tokens=None,
        output="",
        mentions=case.mentions,
        mentioned=(),
    )


def mentioned(text: str, mentions: Sequence[str]) -> Iterable[str]:
    """Those of `mentions` of which any alternative stands in `text` as a word of its own, whatever its case."""
    return (mention for mention in mentions if any(_holds(text, word) for word in mention.split("|")))


def _holds(text: str, word: str) -> bool:
    # Only Latin words have blanks around them: 春 counts wherever it stands.
    bound = r"(?<![a-z0-9]){}(?![a-z0-9])" if word.isascii() else "{}"
    return re.search(bound.format(re.escape(word)), text, re.IGNORECASE) is not None


def _input(file: MediaFile) -> InputFile:
    media = file.media
    return InputFile(file.name, media.kind, media.mime, len(media.data), file.width, file.height, file.duration_s)


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(1000 * value_s, 4)
