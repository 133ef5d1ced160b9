"""POST /v1/audio/transcriptions: a form with a clip to a chat with the thinker, and its answer to a transcript."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec

from engine.core.request import SamplingParams
from engine.errors import InvalidRequest
from engine.inputs.media import Preprocessed
from engine.inputs.mel import HOP, SAMPLE_RATE_HZ
from engine.inputs.messages import ChatMessage, MediaPart, TextPart
from engine.server.jsonbody import quoted, refused
from engine.server.media import NeedsMedia
from engine.server.multipart import FormField, parse_form
from engine.server.plan import Plan, Serving
from engine.server.prompts import PromptChoices, PromptDraft, context_exceeded, draft_prompt
from engine.server.sampling import Range, check_model, check_range
from engine.server.text import StopRule

TranscriptFormat = Literal["json", "text", "verbose_json"]

# What the model was trained to be asked, clip last; it answers with the language's name, a tab and the transcript.
INSTRUCTION = "Please recognize the language of this speech and transcribe it. Format: oral."
_LANGUAGE_TAB = re.compile(r"\s*([A-Z][A-Za-z]{1,24})\t")

MAX_PROMPT_CHARS = 4096
# A fast speaker stays well below; without a bound a model that repeats itself would fill its context.
_TOKENS_PER_S, _TOKENS_AT_LEAST = 12, 64

LANGUAGES: Mapping[str, str] = {
    **{"ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi"},
    **{"id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "ms": "Malay", "nl": "Dutch"},
    **{"pl": "Polish", "pt": "Portuguese", "ru": "Russian", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian"},
    **{"vi": "Vietnamese", "yue": "Cantonese", "zh": "Chinese"},
}

_FIELDS = ("file", "model", "language", "prompt", "temperature", "response_format")
_NOT_HERE = ("timestamp_granularities", "include", "chunking_strategy", "known_speaker_names")


@dataclass(frozen=True, slots=True)
class TranscriptionPlan:
    """A checked request: what the thinker is asked, and how the transcript is to look.

    `language` is the name of the language that the client gave, None where the model is to find out.
    """

    plan: Plan
    format: TranscriptFormat
    language: str | None
    duration_s: float

    @property
    def content_type(self) -> str:
        """Of the answer."""
        return "text/plain; charset=utf-8" if self.format == "text" else "application/json"

    def answer(self, text: str) -> bytes:
        """The body of the answer, from what the thinker said."""
        found = None if self.language else _LANGUAGE_TAB.match(text)
        transcript = (text[found.end() :] if found else text).strip()
        if self.format == "text":
            return transcript.encode()
        usage = {"type": "duration", "seconds": math.ceil(self.duration_s)}
        fields: dict[str, object] = {"text": transcript, "usage": usage}
        if self.format == "verbose_json":
            language = self.language or (found[1] if found else "unknown")
            spoken = {"task": "transcribe", "language": language.lower(), "duration": round(self.duration_s, 2)}
            fields = {**spoken, **fields}
        return msgspec.json.encode(fields)


def plan_transcription(body: bytes, serving: Serving, content_type: str) -> NeedsMedia[TranscriptionPlan]:
    """A transcription request, checked, with its clip still to be decoded.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    serving.need_tokenizer("/v1/audio/transcriptions")
    form = _read_form(body, content_type, serving)
    values = {name: field.text for name, field in form.items() if name != "file" and field.data}
    check_model(values.get("model"), serving)
    fmt = _format(values.get("response_format", "json"))
    language = _language(values.get("language"))
    temperature = _temperature(values.get("temperature"))
    draft = _draft(_clip(form.get("file")), values.get("prompt", ""), language, serving)

    def finish(media: Sequence[Preprocessed]) -> TranscriptionPlan:
        ((clip,),) = (item.arrays for item in media)
        duration_s = clip.shape[0] * HOP / SAMPLE_RATE_HZ
        return TranscriptionPlan(_plan(draft, media, temperature, duration_s, serving), fmt, language, duration_s)

    return NeedsMedia(draft.media, finish)


def _read_form(body: bytes, content_type: str, serving: Serving) -> dict[str, FormField]:
    form: dict[str, FormField] = {}
    for field in parse_form(body, content_type):
        name = field.name.removesuffix("[]")
        if name in _NOT_HERE or (name == "stream" and field.text.lower() not in ("", "false")):
            raise refused(name, f"{name} is not supported by this server")
        if name in form and name in _FIELDS:
            raise InvalidRequest(f"{name} is there more than once", param=name)
        form[name] = field
    serving.field_log.note(form.keys() - {*_FIELDS, "stream"})
    return {name: field for name, field in form.items() if name in _FIELDS}


def _clip(file: FormField | None) -> MediaPart:
    """The file as the media loader takes it; its type is told by its content, whatever the form claims."""
    if file is None:
        raise InvalidRequest("file is required", param="file", code="missing_field")
    return MediaPart("audio", f"data:;base64,{b64encode(file.data).decode()}", "file")


def _draft(clip: MediaPart, hint: str, language: str | None, serving: Serving) -> PromptDraft:
    if len(hint) > MAX_PROMPT_CHARS:
        message = f"prompt has {len(hint)} characters, at most {MAX_PROMPT_CHARS} are read"
        raise InvalidRequest(message, param="prompt")
    question = TextPart(f"{INSTRUCTION}\n{hint}\n" if hint else INSTRUCTION)
    try:
        draft = draft_prompt([ChatMessage("user", (question, clip))], PromptChoices(thinking=False, tools=()), serving)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param="file", code=error.code, status=error.status) from None
    # The answer is begun for the model where the language is known.
    return replace(draft, segments=(*draft.segments, f"{language}\t")) if language else draft


def _plan(
    draft: PromptDraft, media: Sequence[Preprocessed], temperature: float, duration_s: float, serving: Serving
) -> Plan:
    prompt = draft.encode(media)
    context = serving.info.max_model_len
    wanted = _TOKENS_AT_LEAST + math.ceil(_TOKENS_PER_S * duration_s)
    max_tokens = min(wanted, context - len(prompt.ids))
    if max_tokens < 1:
        raise context_exceeded(context, wanted, str(len(prompt.ids)), "file")
    return Plan(
        model=serving.names[0],
        prompts=(prompt,),
        sampling=SamplingParams(max_tokens, temperature=temperature, eos_token_ids=serving.info.eos_token_ids),
        num_samples=1,
        stop=StopRule((), include=False),
        stream=False,
        include_usage=False,
        continuous_usage=False,
    )


def _format(name: str) -> TranscriptFormat:
    formats: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)
    for fmt in formats:
        if fmt == name:
            return fmt
    message = f"response_format must be {', '.join(formats)}, got {quoted(name)}"
    raise InvalidRequest(message, param="response_format")


def _language(asked: str | None) -> str | None:
    """The language's name, of a code (`zh`, `zh-CN`) or a name."""
    if asked is None:
        return None
    known = LANGUAGES.get(asked.lower().partition("-")[0]) or next(
        (name for name in LANGUAGES.values() if name.lower() == asked.lower()), None
    )
    if known is None:
        raise InvalidRequest(f"language must be one of {', '.join(LANGUAGES)}, got {quoted(asked)}", param="language")
    return known


def _temperature(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        raise InvalidRequest(f"temperature must be a number, got {quoted(text)}", param="temperature") from None
    check_range("temperature", value, Range(0, 2))
    return value
