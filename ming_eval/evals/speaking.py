"""Has texts spoken through `/v1/audio/speech` and a recogniser listen to them."""

from __future__ import annotations

import wave
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import msgspec

from ming_eval.errors import TargetError
from ming_eval.evals.answerer import Speech, Tried
from ming_eval.evals.asking import Server
from ming_eval.evals.http import Answer, Session
from ming_eval.evals.plan import Sample
from ming_eval.evals.recogniser import Listener
from ming_eval.types import Failure, Media, Request, Text


class SpeechAnswerer:
    """Asks one server to speak. A voice to speak with goes along where the request holds a sound."""

    def __init__(self, session: Session, server: Server, judge: Listener) -> None:
        self._session = session
        self._server = server
        self._judge = judge

    @property
    def backend(self) -> str:
        """Name of the server."""
        return self._session.target.name

    @property
    def server(self) -> Server:
        """Who answers."""
        return self._server

    async def ask(self, _sample: Sample, request: Request) -> Tried:
        """One text spoken and heard; a recogniser that fails is a failure of the try, not silence.

        Raises:
            TargetError: the server or the recogniser has no such endpoint.
        """
        answer = await self._session.post("audio/speech", json=self._body(request))
        if answer.lacks_route:
            url = f"{self._session.target.base_url}/audio/speech"
            raise TargetError(f"speech suites need {url}: {answer.error}")
        if answer.failure is not None:
            return Tried.failed(answer)
        audio_s, rate_hz = wav_length(answer.body)
        if audio_s is None:
            return _spoken(answer, Speech(answer.body, None, None, None, None))
        try:
            heard, judged = await self._judge.transcribe(answer.body)
        except msgspec.DecodeError as exc:
            error = f"judge: {exc}"
            return Tried(latency_s=answer.latency_s, failure=Failure.MALFORMED, http_status=200, error=error)
        if heard is None:
            return Tried.failed(judged, "judge: ")
        return _spoken(answer, Speech(answer.body, audio_s, rate_hz, _announced_hz(answer.headers), heard))

    def _body(self, request: Request) -> dict[str, Any]:
        parts = request.messages[-1].parts
        body: dict[str, Any] = {
            "model": self._session.target.model,
            "input": "".join(part.text for part in parts if isinstance(part, Text)),
            "response_format": "wav",
            "seed": request.seed,
        }
        for part in parts:
            if isinstance(part, Media):
                body["ref_audio"] = f"data:{part.mime};base64,{b64encode(part.data).decode()}"
        return body | dict(request.extra)


def wav_length(data: bytes) -> tuple[float | None, int | None]:
    """Seconds and sample rate of a WAV file; None when it cannot be decoded."""
    try:
        with wave.open(BytesIO(data)) as file:
            return file.getnframes() / file.getframerate(), file.getframerate()
    except (wave.Error, EOFError, ZeroDivisionError):
        return None, None


def _announced_hz(headers: Mapping[str, str] | None) -> int | None:
    text = (headers or {}).get("X-Audio-Sample-Rate", "")
    return int(text) if text.isdecimal() else None


def _spoken(answer: Answer, speech: Speech) -> Tried:
    return Tried(latency_s=answer.latency_s, http_status=answer.status, finish_reason="stop", speech=speech)
