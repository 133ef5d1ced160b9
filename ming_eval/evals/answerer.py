"""One try to get an answer: what the runner needs of whoever asks a server, and the one that asks for a chat reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ming_eval.client.client import Client
from ming_eval.evals.asking import Server
from ming_eval.evals.http import Answer
from ming_eval.evals.plan import Sample
from ming_eval.metrics.latency import make_record, reply_of
from ming_eval.types import Failure, Request


@dataclass(frozen=True, slots=True)
class Speech:
    """Spoken output: the file, its length (None when it cannot be decoded), and what a recogniser heard in it."""

    data: bytes
    audio_s: float | None
    sample_rate_hz: int | None
    announced_rate_hz: int | None
    transcript: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How one try ended and what it brought."""

    latency_s: float
    failure: Failure | None = None
    http_status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    choice_logprobs: tuple[float, ...] | None = None
    speech: Speech | None = None

    @classmethod
    def failed(cls, answer: Answer, context: str = "") -> Tried:
        """A try that got no answer; `context` goes in front of the message."""
        return cls(
            latency_s=answer.latency_s,
            failure=answer.failure,
            http_status=answer.status,
            error=f"{context}{answer.error}",
            retry_after_s=answer.retry_after_s,
        )


class Answerer(Protocol):
    """Asks one server, as often as it is told and without retries of its own."""

    @property
    def backend(self) -> str:
        """Name of the server."""
        ...

    @property
    def server(self) -> Server:
        """Who answers."""
        ...

    async def ask(self, sample: Sample, request: Request) -> Tried:
        """One try; a failure is returned, not raised."""
        ...


class ChatAnswerer:
    """Asks for whole replies over the measured client."""

    def __init__(self, client: Client, server: Server) -> None:
        self._client = client
        self._server = server

    @property
    def backend(self) -> str:
        """Name of the server."""
        return self._client.target.name

    @property
    def server(self) -> Server:
        """Who answers."""
        return self._server

    async def ask(self, _sample: Sample, request: Request) -> Tried:
        """One chat request; the sample itself is not needed for it."""
        exchange = await self._client.send(request)
        record = make_record(exchange, index=0, concurrency=1, warmup=False, zero_s=0.0)
        reply = reply_of(exchange, record)
        return Tried(
            latency_s=record.done_s - record.sent_s,
            failure=record.failure,
            http_status=record.http_status,
            error=record.error,
            retry_after_s=exchange.retry_after_s,
            text=reply.text,
            reasoning=reply.reasoning,
            finish_reason=record.finish_reason,
            prompt_tokens=record.num_prompt_tokens,
            completion_tokens=record.num_output_tokens,
        )
