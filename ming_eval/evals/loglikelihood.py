"""How likely a model finds each choice's letter after the question, by echoed log-probabilities of `/v1/completions`.

The sum over the tokens of ` A`, ` B`, ... after one prompt, as lm-evaluation-harness scores multiple choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, isfinite
from typing import Any

import msgspec

from ming_eval.errors import TargetError
from ming_eval.evals.answerer import Tried
from ming_eval.evals.asking import Server
from ming_eval.evals.http import Answer, Session
from ming_eval.evals.plan import Sample
from ming_eval.evals.prompt import letters_of
from ming_eval.types import Failure, Message, Request, Text


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int] | None = None


class _Choice(msgspec.Struct):
    index: int
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class LikelihoodAnswerer:
    """Asks one server for the log-probability of every choice."""

    def __init__(self, session: Session, server: Server) -> None:
        self._session = session
        self._server = server

    @property
    def backend(self) -> str:
        """Name of the server."""
        return self._session.target.name

    @property
    def server(self) -> Server:
        """Who answers."""
        return self._server

    async def ask(self, sample: Sample, request: Request) -> Tried:
        """One request with one prompt for each choice.

        Raises:
            TargetError: the server has no such endpoint.
        """
        context = completion_prompt(request.messages)
        prompts = [f"{context} {letter}" for letter in letters_of(sample.item)]
        answer = await self._session.post("completions", json=self._body(prompts, request))
        if answer.lacks_route:
            url = f"{self._session.target.base_url}/completions"
            raise TargetError(f"--method loglikelihood needs {url}: {answer.error}")
        return Tried.failed(answer) if answer.failure is not None else _read(answer, context, prompts)

    def _body(self, prompts: Sequence[str], request: Request) -> dict[str, Any]:
        model = self._session.target.model
        body: dict[str, Any] = {} if model is None else {"model": model}
        # One token has to be generated: not every server takes 0. It is not scored.
        body |= {"prompt": list(prompts), "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        return body | dict(request.extra)


def completion_prompt(messages: Sequence[Message]) -> str:
    """A conversation as plain text: what comes before a question in front of it, examples with their answers."""
    parts: list[str] = []
    for message in messages:
        text = "".join(part.text for part in message.parts if isinstance(part, Text))
        if message.role == "assistant":
            parts[-1] += f" {text}"
        else:
            parts.append(text)
    return "\n\n".join(parts)


def continuation_logprob(logprobs: _Logprobs, start: int, end: int) -> float:
    """Log-probability of the characters from `start` to `end`: of every token that reaches into them.

    Raises:
        ValueError: the tokens do not cover them, or one of them has no probability.
    """
    offsets = logprobs.text_offset or _offsets(logprobs.tokens)
    ends = [*offsets[1:], end]
    chosen = [
        value
        for offset, stop, value in zip(offsets, ends, logprobs.token_logprobs, strict=True)
        if offset < end and stop > start
    ]
    known = [value for value in chosen if value is not None and isfinite(value)]
    if not chosen or len(known) < len(chosen):
        raise ValueError("no log-probabilities for the end of the prompt: does the server support echo?")
    return fsum(known)


def _offsets(tokens: Sequence[str]) -> list[int]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    return offsets


def _read(answer: Answer, context: str, prompts: Sequence[str]) -> Tried:
    try:
        completion = msgspec.json.decode(answer.body, type=_Completion)
        found = {choice.index: choice.logprobs for choice in completion.choices}
        values = tuple(
            continuation_logprob(_given(found.get(index)), len(context), len(prompt))
            for index, prompt in enumerate(prompts)
        )
    except ValueError as exc:  # no JSON, other fields, or no log-probabilities
        return Tried(latency_s=answer.latency_s, failure=Failure.MALFORMED, http_status=answer.status, error=str(exc))
    usage = completion.usage or _Usage()
    return Tried(
        latency_s=answer.latency_s,
        http_status=answer.status,
        choice_logprobs=values,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _given(logprobs: _Logprobs | None) -> _Logprobs:
    if logprobs is None:
        raise ValueError("a choice without logprobs: does the server support echo with logprobs?")
    return logprobs
