"""The values that pass between server, scheduler and model runner.

All of them are frozen dataclasses of plain data, so that they can be logged, compared in tests
and sent between processes as msgpack without any code travelling with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

MediaKind = Literal["image", "video", "audio"]


class FinishReason(StrEnum):
    """Why a request ended; each accepted request gets exactly one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn; ranges are checked at the HTTP edge.

    `logprobs` is None for none, otherwise the number of alternatives beside the chosen token.
    `prompt_logprobs` asks the same for every prompt token (scoring).
    `json_schema` is the text of a JSON schema that the answer must follow, None for free text.
    `eos_token_ids` is empty with `ignore_eos`; an end token gives `stop` without a stop reason,
    one of `stop_token_ids` gives `stop` with the id as its reason. Neither can be drawn before `min_tokens`.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    eos_token_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True, slots=True)
class MediaInput:
    """One encoder chunk (an image, a frame pair or an audio clip) and the placeholders it fills.

    `start` is the position of its first placeholder in the prompt, `num_tokens` their count.
    `grid` is (t, h, w) in patches for pixels, None for audio. `data` holds the preprocessed array
    row-major in `dtype` (a numpy name) and `shape`; `digest` identifies its content for caches.
    """

    kind: MediaKind
    start: int
    num_tokens: int
    grid: tuple[int, int, int] | None
    digest: bytes
    shape: tuple[int, ...]
    dtype: str
    data: bytes


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What the engine is asked to do. `id` is unique within one engine's life and made by the server."""

    id: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    media: tuple[MediaInput, ...] = ()
    tenant: str = ""  # key of fairness between clients, never shown


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + count) of one request, to be computed in one step.

    The runner keeps a block table per request: it cuts it to `table_start` entries and appends
    `new_blocks` (so a table travels once, and `table_start` 0 replaces it after a preemption).
    `sample` is true when the chunk ends at the last known token, whose successor is to be drawn.
    """

    request_id: int
    start: int
    count: int
    table_start: int
    new_blocks: tuple[int, ...]
    sample: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass. `dropped` are requests that the runner may forget before it runs the chunks.

    `encode` names media to start encoding, as (request id, index into its media). The features are kept
    until the request is dropped. With `wait` there is nothing to compute and all that runs depends on media
    asked for earlier: `collect` may hold back the result for a few milliseconds until one is encoded.
    """

    id: int
    new: tuple[GenerationRequest, ...]
    chunks: tuple[Chunk, ...]
    dropped: tuple[int, ...] = ()
    encode: tuple[tuple[int, int], ...] = ()
    wait: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of the probability before temperature and filters; `top` falls."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A token drawn for a request; `prompt_logprobs` are those of the prompt tokens this chunk scored."""

    request_id: int
    token: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class ExpertLook:
    """Distinct experts of a layer in one decode step, mean over layers, and how many uniform routing would touch."""

    distinct: float
    uniform: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step produced: one sample per chunk with `sample`, in any order.

    `prompt_logprobs` lists (request id, entries for prompt positions start+1 .. of this chunk).
    `encoded` are media whose features are ready; `failed` are requests that cannot go on, with a reason.
    `experts` is there after a decode step that was looked at.
    """

    step_id: int
    samples: tuple[Sample, ...]
    prompt_logprobs: tuple[tuple[int, tuple[TokenLogprob, ...]], ...] = ()
    encoded: tuple[tuple[int, int], ...] = ()
    failed: tuple[tuple[int, str], ...] = ()
    experts: ExpertLook | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """News about one request. It is terminal, and the last for its request, when `finish` is set.

    `stop_token_id` is the id out of `stop_token_ids` that ended it. `cached_tokens` counts prompt tokens
    taken from the prefix cache. `queue_s` and `prefill_s` come with the first token and with the terminal event.
    """

    request_id: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop_token_id: int | None = None
    error: str | None = None
    cached_tokens: int = 0
    queue_s: float | None = None
    prefill_s: float | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and counters of the scheduler, as `/metrics` shows them; those of experts are sums over `expert_looks`."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    expert_looks: int = 0
    distinct_experts: float = 0.0
    uniform_experts: float = 0.0


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of one step and of one request, fixed at start-up.

    `mixed_step_tokens` are the most of a step while a stream decodes, which waits for all of them; None: `step_tokens`.
    """

    step_tokens: int
    step_requests: int
    max_model_len: int
    mixed_step_tokens: int | None = None

    @property
    def shared_tokens(self) -> int:
        """Most tokens of a step while a stream decodes."""
        return self.step_tokens if self.mixed_step_tokens is None else min(self.step_tokens, self.mixed_step_tokens)


class Runner(Protocol):
    """Runs steps in the order submitted. At most two are under way, so that one is scheduled while one runs."""

    def submit(self, step: Step) -> None:
        """Start a step; returns without waiting for its result."""

    def collect(self) -> StepResult:
        """Wait for the oldest step that was submitted and not collected."""
