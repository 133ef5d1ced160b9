"""The values that pass through a measurement; frozen, no I/O.

A `Request` is what is asked, `Event`s are what arrived and when, a `RequestRecord` is one line of
`requests.jsonl`. Times are seconds. In events they are readings of the client's monotonic clock; in records
they are seconds since the run's clock zero, so that a stored run can be read without that clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import msgspec


class Task(StrEnum):
    """Input modality to output modality."""

    T2T = "T2T"
    I2T = "I2T"
    A2T = "A2T"
    V2T = "V2T"
    T2S = "T2S"
    I2S = "I2S"
    A2S = "A2S"
    V2S = "V2S"


@dataclass(frozen=True, slots=True)
class Text:
    """A text part of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image, audio or video part; `data` is the encoded file (PNG, WAV, MP4, ...) as it will be sent."""

    kind: Literal["image", "audio", "video"]
    data: bytes
    mime: str


Part = Text | Media


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """Where in a conversation a request stands: turn `number` `of` so many, from 1; `index` is its place in a point."""

    conversation: int
    number: int
    of: int
    index: int


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask a server, independent of its dialect.

    `id` is stable over repeats of a run (it pairs records of two systems). `extra` is merged into the JSON body last.
    `turn` is None outside a conversation. `prompt_ids` are the whole prompt in token ids, in place of
    `messages`; only the completions route takes them.
    """

    id: str
    messages: tuple[Message, ...]
    task: Task = Task.T2T
    max_tokens: int | None = None
    temperature: float | None = 0.0
    seed: int | None = None
    ignore_eos: bool = False
    stream: bool = True
    voice: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    turn: Turn | None = None
    prompt_ids: tuple[int, ...] | None = None

    @property
    def wants_audio(self) -> bool:
        """True when the reply must hold speech."""
        return self.task.value.endswith("S")


class EventKind(StrEnum):
    """What an event of a reply carries. TEXT, REASONING, TOOL_CALL and AUDIO are output."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    AUDIO = "audio"
    ROLE = "role"
    FINISH = "finish"
    USAGE = "usage"
    LOGPROBS = "logprobs"
    ERROR = "error"
    DONE = "done"


OUTPUT_KINDS = frozenset({EventKind.TEXT, EventKind.REASONING, EventKind.TOOL_CALL, EventKind.AUDIO})


# Structs rather than dataclasses, and out of the garbage collector's sight: there is one for each token, and they
# cannot form cycles.


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts as the server reports them; None where it does not. `audio_tokens` are part of the completion."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    audio_tokens: int | None = None


class TokenLogprob(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A generated token and the natural logarithm of its probability; `top` has those of the likeliest tokens."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    def of(self, token: str) -> float | None:
        """The logarithm for any token; None for one that was not reported."""
        return self.logprob if token == self.token else dict(self.top).get(token)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One piece of a reply, stamped when its bytes arrived.

    One server-sent event can give several (a last delta with text and finish reason gives TEXT and FINISH).
    `text` is the text piece, or for ERROR the message, or for FINISH the finish reason. `audio` is raw file or
    sample bytes, `sample_rate_hz` the rate of bare samples where the piece itself states it.
    """

    kind: EventKind
    time_s: float
    text: str = ""
    audio: bytes = b""
    usage: Usage | None = None
    sample_rate_hz: int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class Failure(StrEnum):
    """Why a request failed (reference: measurement definitions, `failures`)."""

    CONNECT = "connect"
    HTTP_4XX = "http_4xx"
    HTTP_429 = "http_429"
    HTTP_5XX = "http_5xx"
    RESET = "reset"
    EARLY_EOF = "early_eof"
    MALFORMED = "malformed"
    INBAND_ERROR = "inband_error"
    TIMEOUT_FIRST = "timeout_first"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    EMPTY = "empty"
    NO_FINISH_REASON = "no_finish_reason"


class TokenSource(StrEnum):
    """Where `num_output_tokens` comes from; runs with different sources do not compare."""

    USAGE = "usage"
    CONTINUOUS_USAGE = "continuous_usage"
    TOKENIZER = "tokenizer"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What happened to one request: one line of `requests.jsonl`.

    Times are seconds since the run's clock zero. `intended_s` is when it was due (open loop) or None (closed loop);
    `sent_s` the instant before its first byte was handed to the connection. `output_times_s` has one entry per
    output-bearing event and `output_event_tokens` how many tokens each carried (estimated from the token count and
    the lengths of the texts when the server does not say). `slot` is which of a closed loop's users sent it.
    `audio_times_s` and `audio_durations_s` have one entry per piece of speech: when it came and how long it plays
    (None: rate unknown). `rate_per_s` is the rate of the open loop that the request belongs to, None in any other load.
    `request_sha256` is the digest of the JSON that was sent. `upload_s` is how long it took until the kernel had taken
    the last byte of the request. `repeat` counts the passes over the points from 1; `conversation` and `turn` are there
    in conversations only. A value that does not exist is None, never 0.
    """

    id: str
    backend: str
    task: Task
    concurrency: int
    warmup: bool
    index: int
    intended_s: float | None
    sent_s: float
    first_byte_s: float | None
    first_output_s: float | None
    first_content_s: float | None
    first_audio_s: float | None
    last_output_s: float | None
    done_s: float
    output_times_s: tuple[float, ...]
    output_event_tokens: tuple[int, ...]
    num_first_event_tokens: int | None
    num_output_tokens: int | None
    num_prompt_tokens: int | None
    num_cached_tokens: int | None
    token_source: TokenSource | None
    finish_reason: str | None
    failure: Failure | None
    http_status: int | None
    error: str | None
    num_request_bytes: int
    num_text_chars: int
    num_audio_bytes: int = 0
    audio_s: float | None = None
    connect_s: float | None = None
    reused_connection: bool = True
    slot: int | None = None
    num_audio_tokens: int | None = None
    audio_times_s: tuple[float, ...] = ()
    audio_durations_s: tuple[float | None, ...] = ()
    rate_per_s: float | None = None
    request_sha256: str | None = None
    upload_s: float | None = None
    repeat: int = 1
    conversation: int | None = None
    turn: int | None = None

    @property
    def ok(self) -> bool:
        """True when the reply is complete and usable."""
        return self.failure is None


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the server took no connections and nothing was sent; seconds since the run's clock zero."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHealth:
    """How the client itself fared while one phase was measured; what cannot be known here is None.

    `loop_lag_s` is how late the event loop's timers fired, `receive_lag_s` kernel stamp to user stamp, both p99.
    `clock_drift_s` is how far the kernel's clock moved against the client's meanwhile.
    """

    wall_s: float
    cpu_s: float
    loop_lag_s: float | None
    num_loop_samples: int
    receive_lag_s: float | None
    num_receive_stamps: int
    clock_drift_s: float | None
    gc_pause_max_s: float
    gc_pauses_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSample:
    """What the server said of itself at one moment (GET /metrics); None where it does not say.

    `kv_used` is a share; hits and queries of the prefix cache and preemptions are counted since the server started, and
    so are the decode steps whose experts were looked at, with the distinct experts found and those of uniform routing.
    """

    time_s: float
    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None
    prefix_hits: float | None = None
    prefix_queries: float | None = None
    preemptions: float | None = None
    expert_looks: float | None = None
    distinct_experts: float | None = None
    uniform_experts: float | None = None


@dataclass(frozen=True, slots=True)
class GpuSample:
    """All GPUs of the client's host at one moment: watts in all, and the mean share of time they were busy.

    `energy_j` is what they have used in all since some moment in the past, None where one of them does not count it.
    """

    time_s: float
    power_w: float
    busy: float
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The measured part of a point, or as much of it as one process did: one line of `phases.jsonl`.

    `length_source` is what the lengths of synthetic prompts rest on, None for others. `processes` shared the point.
    `connects_s` is how long connections took to open, of the first thousand.
    `complete` when the point came to its end, by whatever rule; `stopped` is the rule, None when all requests went out.
    """

    backend: str
    concurrency: int
    rate_per_s: float | None
    started_s: float
    ended_s: float
    complete: bool
    stopped: str | None = None
    outages: tuple[Outage, ...] = ()
    health: ClientHealth | None = None
    server: tuple[ServerSample, ...] = ()
    gpus: tuple[GpuSample, ...] = ()
    length_source: str | None = None
    processes: int = 1
    connects_s: tuple[float, ...] = ()
    task: Task = Task.T2T
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished request: its record, and what it said."""

    record: RequestRecord
    text: str
    reasoning: str = ""
    audio: bytes = b""
    request_body: bytes = b""
    logprobs: tuple[TokenLogprob, ...] = ()
