"""Looks at media in and speech out, with the small files of the coverage suite's warm-ups."""

from __future__ import annotations

from dataclasses import replace

from ming_eval.coverage.cases import Case, CaseSet
from ming_eval.doctor.asking import Answer, Questioner
from ming_eval.doctor.diagnosis import Finding, Status
from ming_eval.types import EventKind, Request, Task

_INPUTS = ((Task.I2T, "image"), (Task.A2T, "audio"), (Task.V2T, "video"))


async def check_inputs(questioner: Questioner, cases: CaseSet) -> tuple[Finding, ...]:
    """Each kind of media: refused, ignored, or seen by its prompt tokens."""
    return tuple([await _check_input(questioner, cases.warmups[task], kind) for task, kind in _INPUTS])


async def _check_input(questioner: Questioner, case: Case, kind: str) -> Finding:
    name, costs = f"{kind} in", f"anything with {kind} in it"
    request = replace(case.request(), max_tokens=4)
    answer = await questioner.ask(request)
    if not answer.is_good:
        return Finding(name, Status.MISSING, await _refused(questioner, request, kind, answer), costs)
    control = await questioner.ask(replace(case.control(), max_tokens=4))
    with_media, without = _prompt_tokens(answer), _prompt_tokens(control)
    if with_media is None or without is None:
        doubt = f"whether the {kind} was seen at all: usage has no prompt tokens"
        return Finding(name, Status.ODD, "taken; prompt tokens are not reported", doubt)
    if with_media <= without:
        return Finding(name, Status.ODD, f"taken and ignored: {with_media} prompt tokens, {without} without", costs)
    return Finding(name, Status.OK, f"{with_media - without} prompt tokens for it")


async def _refused(questioner: Questioner, request: Request, kind: str, answer: Answer) -> str:
    """Why; says when only the other spelling of audio is taken."""
    if kind != "audio" or answer.status is None:
        return answer.reason
    dialect = questioner.target.dialect
    other = replace(dialect, audio_part="audio_url" if dialect.audio_part == "input_audio" else "input_audio")
    again = replace(questioner, target=replace(questioner.target, dialect=other))
    if (await again.ask(request)).is_good:
        return f"refused as {dialect.audio_part}, taken as {other.audio_part}: choose another --dialect"
    return answer.reason


async def check_speech(questioner: Questioner, cases: CaseSet) -> tuple[Finding, ...]:
    """Spoken answers in a stream, and the speech route."""
    answer = await questioner.ask(replace(cases.warmups[Task.T2S].request(), max_tokens=8))
    return (_speech(answer, questioner), await _speech_route(questioner))


def _speech(answer: Answer, questioner: Questioner) -> Finding:
    traits, costs = answer.traits, "anything with speech in the answer"
    if traits is None or traits.error is not None:
        return Finding("speech out", Status.MISSING, answer.reason, costs)
    pieces = [event for event in traits.events if event.kind is EventKind.AUDIO]
    if not pieces:
        return Finding("speech out", Status.MISSING, "asked for, and no audio came", costs)
    stated = answer.page.headers.get("x-audio-sample-rate", "") if answer.page is not None else ""
    rate_hz = int(stated) if stated.isdecimal() else questioner.target.dialect.pcm_sample_rate_hz
    seconds = traits.audio_s(rate_hz)
    num_times = len({piece.time_s for piece in pieces})
    if seconds is None:
        doubt = "RTF and playback: nobody states the sample rate of the audio"
        return Finding("speech out", Status.ODD, f"{len(pieces)} pieces at an unknown rate", doubt)
    detail = f"{seconds:.2f} s in {len(pieces)} pieces, {num_times} arrivals"
    if num_times == 1:
        return Finding("speech out", Status.ODD, detail, "RTF_gen and playback: all audio comes at once")
    return Finding("speech out", Status.OK, detail)


async def _speech_route(questioner: Questioner) -> Finding:
    target = questioner.target
    content = {"input": "Yes.", "response_format": "wav"} | ({"model": target.model} if target.model else {})
    page = await questioner.post(f"{target.base_url}/audio/speech", content)
    if page is None:
        return Finding("/v1/audio/speech", Status.FAILED, "no answer in time")
    if page.status != 200:
        return Finding("/v1/audio/speech", Status.MISSING, f"HTTP {page.status}")
    return Finding("/v1/audio/speech", Status.OK, f"{len(page.body)} bytes of {page.headers.get('content-type')}")


def _prompt_tokens(answer: Answer) -> int | None:
    if answer.traits is None:
        return None
    usages = [event.usage for event in answer.traits.events if event.usage is not None]
    return next((usage.prompt_tokens for usage in reversed(usages) if usage.prompt_tokens), None)
