"""Who listens to speech: a recogniser behind an OpenAI-compatible endpoint, or one on this machine."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec

from ming_eval.errors import TargetError, UsageError
from ming_eval.evals.http import Answer, Session
from ming_eval.targets import Target

_PROMPT = "Transcribe the speech. Reply with the transcript only."
_MAX_TOKENS = 1024


class _Transcription(msgspec.Struct):
    text: str


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class Listener(Protocol):
    """Hears what is said in a WAV file."""

    async def transcribe(self, wav: bytes) -> tuple[str | None, Answer]:
        """What was heard, None when the recogniser failed; with the answer that says why."""
        ...


@dataclass(frozen=True, slots=True)
class Judge:
    """The recogniser that `--judge` names: at `target`, or of a `family` in a `folder`. `model` names the metric."""

    model: str
    target: Target | None = None
    family: str = ""
    folder: Path = Path()


def parse_judge(text: str) -> Judge:
    """The recogniser in `MODEL=URL` or `MODEL=FAMILY:FOLDER`.

    Raises:
        UsageError: it is of neither form.
    """
    model, equals, place = text.partition("=")
    if equals and model and "://" in place:
        return Judge(model, Target.at(place, name=model.replace("/", "_"), model=model))
    family, colon, folder = place.partition(":")
    if not (equals and model and family and colon and folder):
        raise UsageError(
            f"--judge {text!r}: write MODEL=URL, such as whisper-large-v3=http://localhost:9000, or "
            "MODEL=FAMILY:FOLDER for one on this machine, such as whisper-large-v3=whisper:./whisper-large-v3"
        )
    return Judge(model, family=family, folder=Path(folder))


class Recogniser:
    """Transcribes WAV files, by `/v1/audio/transcriptions` or, where there is no such route, by chat."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._has_route = True

    async def transcribe(self, wav: bytes) -> tuple[str | None, Answer]:
        """What was heard, None when the recogniser failed; with the answer that says why.

        Raises:
            TargetError: the server offers neither route.
        """
        if self._has_route:
            answer = await self._session.post("audio/transcriptions", data=self._form(wav))
            if not answer.lacks_route:
                return _read(answer, _transcribed)
            self._has_route = False
        answer = await self._session.post("chat/completions", json=self._chat(wav))
        if answer.lacks_route:
            url = self._session.target.base_url
            raise TargetError(f"the judge at {url} has no /audio/transcriptions, and /chat/completions: {answer.error}")
        return _read(answer, _said)

    def _form(self, wav: bytes) -> aiohttp.FormData:
        form = aiohttp.FormData()
        form.add_field("file", wav, filename="speech.wav", content_type="audio/wav")
        form.add_field("model", self._session.target.model or "")
        form.add_field("temperature", "0")
        return form

    def _chat(self, wav: bytes) -> dict[str, Any]:
        audio = {"type": "input_audio", "input_audio": {"data": b64encode(wav).decode(), "format": "wav"}}
        content = [audio, {"type": "text", "text": _PROMPT}]
        messages = [{"role": "user", "content": content}]
        return {
            "model": self._session.target.model,
            "messages": messages,
            "max_tokens": _MAX_TOKENS,
            "temperature": 0,
        }


def _read(answer: Answer, read: Callable[[bytes], str]) -> tuple[str | None, Answer]:
    if answer.failure is not None:
        return None, answer
    return read(answer.body), answer


def _transcribed(body: bytes) -> str:
    return msgspec.json.decode(body, type=_Transcription).text


def _said(body: bytes) -> str:
    choices = msgspec.json.decode(body, type=_Completion).choices
    return (choices[0].message.content or "") if choices else ""
