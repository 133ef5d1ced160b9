"""Answers of POST /v1/audio/speech: one file, its bytes as they come, or events."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable

import msgspec
from aiohttp import web

from engine.core.speech import SpeechRequest
from engine.errors import InvalidRequest
from engine.server.answers import EVENT_HEADERS, STREAM_HEADERS, ResponseStream
from engine.server.audio_file import MEDIA_TYPES, RATE_HEADER, encode_audio, file_rate, wav_header
from engine.server.errors import ApiError, as_api_error
from engine.server.service import Service
from engine.server.speech_body import SpokenText
from engine.server.stretch import stretch_pcm
from engine.server.utterance import Utterance


async def answer_speech(
    service: Service, request: web.Request, spoken: SpokenText, arrived_s: float
) -> web.StreamResponse:
    """Speak and answer in the form that was asked for.

    Raises:
        ApiError: the request failed before its answer began.
        Overloaded: the queue is full.
        ConnectionError: the client is gone.
    """
    if spoken.stream is None:
        return await _whole(service, spoken, arrived_s)
    rate = str(spoken.sample_rate)
    if spoken.stream == "sse":
        headers = {**EVENT_HEADERS, RATE_HEADER: rate}
    else:
        headers = {"Content-Type": MEDIA_TYPES[spoken.format], **STREAM_HEADERS, RATE_HEADER: rate}
    stream = ResponseStream(request, headers)
    utterance = _utterance(service, spoken, arrived_s, stream.break_off)
    if spoken.stream == "sse":
        return await _events(utterance, spoken, stream)
    return await _bytes(utterance, spoken, stream)


async def _whole(service: Service, spoken: SpokenText, arrived_s: float) -> web.Response:
    pieces = []
    with _utterance(service, spoken, arrived_s, None) as utterance:
        utterance.say(spoken.text, last=True)
        while not utterance.is_finished:
            pieces.append(await utterance.next())
    _check_spoken(utterance)
    body = await asyncio.get_running_loop().run_in_executor(service.pool, _file, b"".join(pieces), spoken)
    headers = {RATE_HEADER: str(file_rate(spoken.sample_rate, spoken.format))}
    return web.Response(body=body, content_type=MEDIA_TYPES[spoken.format], headers=headers)


async def _bytes(utterance: Utterance, spoken: SpokenText, stream: ResponseStream) -> web.StreamResponse:
    """Samples as they come, behind a header of unknown length if it is a WAV file.

    A failure in the middle breaks the connection off: there is no other way to say that samples are missing.
    """
    head = wav_header(spoken.sample_rate, None) if spoken.format == "wav" else b""
    try:
        with utterance:
            utterance.say(spoken.text, last=True)
            while not utterance.is_finished:
                if pcm := await utterance.next():
                    await stream.write(head + pcm)
                    head = b""
            _check_spoken(utterance)
    except ApiError:
        if not stream.has_begun:
            raise
        stream.break_off()
        raise ConnectionResetError("the speech broke off") from None
    return await stream.end()


async def _events(utterance: Utterance, spoken: SpokenText, stream: ResponseStream) -> web.StreamResponse:
    head = wav_header(spoken.sample_rate, None) if spoken.format == "wav" else b""
    try:
        with utterance:
            utterance.say(spoken.text, last=True)
            while not utterance.is_finished:
                if pcm := await utterance.next():
                    data = b64encode(head + pcm).decode()
                    await stream.write(_event({"type": "speech.audio.delta", "audio": data}))
                    head = b""
            _check_spoken(utterance)
        await stream.write(_event({"type": "speech.audio.done", "usage": _usage(utterance)}))
    except ApiError as error:
        if not stream.has_begun:
            raise
        body = msgspec.json.decode(error.envelope(), type=dict[str, object])
        await stream.write(_event({"type": "speech.audio.error"} | body))
    return await stream.end()


def _utterance(
    service: Service, spoken: SpokenText, arrived_s: float, on_overflow: Callable[[], None] | None
) -> Utterance:
    request = SpeechRequest(
        id=service.speech.next_id(),
        seed=spoken.seed,
        voice=spoken.voice,
        instructions=spoken.instructions,
        speaker=spoken.speaker,
        clip=spoken.clip,
        max_steps=spoken.max_steps,
        temperature=spoken.temperature,
    )
    return Utterance(service, request, arrived_s, on_overflow)


def _check_spoken(utterance: Utterance) -> None:
    """Raises:
    ApiError: there was nothing in the text that can be said.
    """
    if not utterance.num_steps:
        message = "input has nothing that can be spoken: no letter and no digit"
        raise as_api_error(InvalidRequest(message, param="input"))


def _file(pcm: bytes, spoken: SpokenText) -> bytes:
    return encode_audio(stretch_pcm(pcm, spoken.sample_rate, spoken.speed), spoken.sample_rate, spoken.format)


def _usage(utterance: Utterance) -> dict[str, int]:
    text, steps = utterance.num_prompt_tokens, utterance.num_steps
    return {"input_tokens": text, "output_tokens": steps, "total_tokens": text + steps}


def _event(fields: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"
