"""Exchanges and records with times made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ming_eval.client import Exchange
from ming_eval.client.reply import ReplyReader
from ming_eval.metrics import latency
from ming_eval.targets import find_dialect
from ming_eval.types import Event, Failure, Message, Request, RequestRecord, Task, Text, TokenSource

ASK = Request(id="q", messages=(Message("user", (Text("hi"),)),), max_tokens=60)


def exchange(
    events: Iterable[Event] = (), *, sent_s: float = 0.0, done_s: float = 9.0, request: Request = ASK, **fields: Any
) -> Exchange:
    """A finished exchange with these events."""
    return Exchange(
        request=request,
        backend="fake",
        request_bytes=b"POST / HTTP/1.1\r\n\r\n{}",
        intended_s=fields.pop("intended_s", None),
        sent_s=sent_s,
        events=list(events),
        done_s=done_s,
        **fields,
    )


def record_of(source: Exchange, zero_s: float = 0.0) -> RequestRecord:
    return latency.make_record(source, index=0, concurrency=4, warmup=False, zero_s=zero_s)


def record(
    *, sent_s: float = 0.0, times_s: tuple[float, ...] = (1.0,), tokens: tuple[int, ...] | None = None, **fields: Any
) -> RequestRecord:
    """A record with output at `times_s`, one token each unless `tokens` says otherwise."""
    tokens = tokens or (1,) * len(times_s)
    plain = RequestRecord(
        id="q",
        backend="fake",
        task=Task.T2T,
        concurrency=1,
        warmup=False,
        index=0,
        intended_s=None,
        sent_s=sent_s,
        first_byte_s=times_s[0],
        first_output_s=times_s[0],
        first_content_s=times_s[0],
        first_audio_s=None,
        last_output_s=times_s[-1],
        done_s=times_s[-1],
        output_times_s=times_s,
        output_event_tokens=tokens,
        num_first_event_tokens=tokens[0],
        num_output_tokens=sum(tokens),
        num_prompt_tokens=5,
        num_cached_tokens=0,
        token_source=TokenSource.USAGE,
        finish_reason="stop",
        failure=None,
        http_status=200,
        error=None,
        num_request_bytes=100,
        num_text_chars=10,
    )
    return replace(plain, **fields)


def failed(failure: Failure = Failure.RESET, **fields: Any) -> RequestRecord:
    return record(failure=failure, error="x", **fields)


class Stream:
    """A streamed reply written by hand: bytes with the time at which they arrive, in milliseconds after sending."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, bytes]] = []

    def event(self, time_ms: float, data: str) -> Stream:
        self.arrivals.append((time_ms, f"data: {data}\n\n".encode()))
        return self

    def delta(self, time_ms: float, finish_reason: str | None = None, **delta: Any) -> Stream:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return self.event(time_ms, json.dumps({"choices": [choice]}))

    def usage(self, time_ms: float, completion_tokens: int) -> Stream:
        usage = {"prompt_tokens": 5, "completion_tokens": completion_tokens}
        return self.event(time_ms, json.dumps({"choices": [], "usage": usage}))

    def end(self, time_ms: float) -> Stream:
        return self.event(time_ms, "[DONE]")

    def played(self, sent_s: float = 0.0) -> Exchange:
        """The exchange of a request sent at `sent_s` that got this reply."""
        result = exchange(sent_s=sent_s)
        reader = ReplyReader(result, find_dialect("openai"))
        reader.begin(200, {"content-type": "text/event-stream"})
        for time_ms, data in self.arrivals:
            reader.feed(data, sent_s + time_ms / 1e3)
        reader.end(sent_s + self.arrivals[-1][0] / 1e3)
        return result
