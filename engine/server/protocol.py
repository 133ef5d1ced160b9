"""Bodies of the two generation routes to plans: JSON, ranges, prompts, and the length of the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidRequest
from engine.inputs.media import Preprocessed
from engine.server.conversation import MessageBody, conversation
from engine.server.jsonbody import decode_body, quoted
from engine.server.media import NeedsMedia
from engine.server.plan import Plan, PromptInput, Serving, SpeechPlan
from engine.server.prompts import PromptChoices, context_exceeded, draft_prompt, encode_text
from engine.server.sampling import (
    MAX_TOP_LOGPROBS,
    Range,
    SamplingBody,
    check_range,
    check_sampling,
    check_token,
    sampling_params,
    stop_rule,
)
from engine.server.speech_body import SpokenBody, chat_speech

MAX_PROMPTS = 256
_DEFAULT_COMPLETION_TOKENS = 16


class ChatBody(SamplingBody, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[MessageBody]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: SpokenBody | None = None
    voice: str | None = None
    speaker: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class CompletionBody(SamplingBody, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[int | str | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    return_token_ids: bool | None = None
    add_special_tokens: bool | None = None


def plan_chat(body: bytes, serving: Serving) -> Plan | NeedsMedia[Plan]:
    """A chat request, checked and tokenised; slow for long prompts, so not for the event loop.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    serving.need_thinker()
    request = decode_body(body, ChatBody, serving.field_log)
    context = serving.info.max_model_len
    check_sampling(request, serving)
    check_range("max_completion_tokens", request.max_completion_tokens, Range(1, context))
    check_range("max_tokens", request.max_tokens, Range(1, context))
    speech = _speech(request, serving)
    logprobs = _chat_logprobs(request)
    asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    messages = conversation(request.messages)
    draft = draft_prompt(messages, PromptChoices.of(request, serving), serving, max_tokens=asked)

    def finish(media: Sequence[Preprocessed]) -> Plan:
        prompt = draft.encode(media)
        max_tokens = _fit(len(prompt.ids), asked, context - len(prompt.ids), context, "messages")
        return _plan(request, serving, (prompt,), max_tokens=max_tokens, logprobs=logprobs, speech=speech)

    return NeedsMedia(draft.media, finish) if draft.media else finish(())


def plan_completion(body: bytes, serving: Serving) -> Plan:
    """A completion request, checked and tokenised; slow for long prompts, so not for the event loop.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    serving.need_thinker()
    request = decode_body(body, CompletionBody, serving.field_log)
    context = serving.info.max_model_len
    check_sampling(request, serving)
    check_range("max_tokens", request.max_tokens, Range(0 if request.echo else 1, context))
    check_range("logprobs", request.logprobs, Range(0, MAX_TOP_LOGPROBS))
    if not request.return_token_ids:
        serving.need_tokenizer("text output (send return_token_ids: true)")
    adds = request.add_special_tokens
    asked = request.max_tokens if request.max_tokens is not None else _DEFAULT_COMPLETION_TOKENS
    prompts = tuple(_encode(prompt, serving, adds, asked) for prompt in _prompts(request.prompt))
    longest = max(len(prompt.ids) for prompt in prompts)
    default = min(_DEFAULT_COMPLETION_TOKENS, context - longest)
    max_tokens = _fit(longest, request.max_tokens, default, context, "prompt")
    return _plan(
        request,
        serving,
        prompts,
        max_tokens=max_tokens,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
        echo=bool(request.echo),
        return_token_ids=bool(request.return_token_ids),
    )


def _plan(
    request: SamplingBody,
    serving: Serving,
    prompts: tuple[PromptInput, ...],
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    echo: bool = False,
    return_token_ids: bool = False,
    speech: SpeechPlan | None = None,
) -> Plan:
    stream = request.stream_options
    include_usage = bool(stream and stream.include_usage)
    return Plan(
        model=request.model or serving.names[0],
        prompts=prompts,
        sampling=sampling_params(
            request, serving, max_tokens=max_tokens, logprobs=logprobs, prompt_logprobs=prompt_logprobs
        ),
        num_samples=request.n or 1,
        stop=stop_rule(request),
        stream=bool(request.stream),
        include_usage=include_usage,
        continuous_usage=include_usage and bool(stream and stream.continuous_usage_stats),
        echo=echo,
        return_token_ids=return_token_ids,
        speech=speech,
    )


def _speech(request: ChatBody, serving: Serving) -> SpeechPlan | None:
    """How the answer is to be spoken, None for text alone."""
    modalities = request.modalities if request.modalities is not None else ["text"]
    if not modalities or set(modalities) - {"text", "audio"}:
        raise InvalidRequest(f"modalities must be text, audio, or both, got {quoted(modalities)}", param="modalities")
    if "audio" not in modalities:
        return None
    info = serving.need_speech("modalities")
    serving.need_tokenizer("audio output")
    if (request.n or 1) > 1:
        raise InvalidRequest("n must be 1 where the answer is spoken", param="n")
    asked = request.audio or SpokenBody()
    asked.voice = next((voice for voice in (asked.voice, request.voice, request.speaker) if voice is not None), None)
    return chat_speech(asked, info, stream=bool(request.stream), shows_text="text" in modalities)


def _chat_logprobs(request: ChatBody) -> int | None:
    """Alternatives for each token, None for no probabilities at all."""
    check_range("top_logprobs", request.top_logprobs, Range(0, MAX_TOP_LOGPROBS))
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _prompts(prompt: str | list[int | str | list[int]]) -> Sequence[str | list[int]]:
    """The four forms of `prompt` as a list of prompts."""
    if isinstance(prompt, str):
        return [prompt]
    texts = [item for item in prompt if isinstance(item, str)]
    ids = [item for item in prompt if isinstance(item, int)]
    lists = [item for item in prompt if isinstance(item, list)]
    if prompt and len(ids) == len(prompt):
        return [ids]
    batch = texts or lists
    if not 1 <= len(prompt) <= MAX_PROMPTS or len(batch) != len(prompt):
        kinds = f"a string, 1 to {MAX_PROMPTS} strings, a list of ids, or 1 to {MAX_PROMPTS} lists of ids"
        raise InvalidRequest(f"prompt must be {kinds}", param="prompt")
    return batch


def _encode(prompt: str | list[int], serving: Serving, adds: bool | None, max_tokens: int) -> PromptInput:
    if isinstance(prompt, str):
        ids = tuple(encode_text(prompt, serving, add_special_tokens=adds, max_tokens=max_tokens))
    else:
        ids = tuple(prompt)
        for token in (min(ids, default=0), max(ids, default=0)):
            check_token("prompt", token, serving.info.vocab_size)
    if not ids:
        raise InvalidRequest("prompt must have at least one token", param="prompt")
    return PromptInput(ids)


def _fit(num_prompt: int, asked: int | None, default: int, context: int, param: str) -> int:
    """How many tokens may be generated.

    Raises:
        InvalidRequest: prompt and answer do not fit the context.
    """
    max_tokens = asked if asked is not None else max(1, default)
    if num_prompt + max_tokens > context:
        raise context_exceeded(context, max_tokens, str(num_prompt), param)
    return max_tokens
