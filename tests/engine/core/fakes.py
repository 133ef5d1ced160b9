"""A runner without a model, strict about what the scheduler owes a real one, and what it must produce."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from zlib import crc32

from engine.core.request import (
    Chunk,
    FinishReason,
    GenerationRequest,
    MediaInput,
    Sample,
    SamplingParams,
    Step,
    StepResult,
    TokenLogprob,
)

VOCAB_SIZE = 40


def make_request(
    request_id: int,
    prompt: int | tuple[int, ...],
    *,
    max_tokens: int = 4,
    media: tuple[MediaInput, ...] = (),
    tenant: str = "",
    **sampling: object,
) -> GenerationRequest:
    """A request with `prompt` tokens that no other request shares, or with the ids given."""
    ids = tuple(1000 * (request_id + 1) + i for i in range(prompt)) if isinstance(prompt, int) else prompt
    params = SamplingParams(max_tokens=max_tokens, **sampling)  # type: ignore[arg-type]
    return GenerationRequest(request_id, ids, params, media, tenant)


def make_media(start: int, num_tokens: int, digest: bytes = b"picture") -> MediaInput:
    return MediaInput("image", start, num_tokens, (1, 2, 2 * num_tokens), digest, (0,), "float32", b"")


def entry_of(previous: int, request: GenerationRequest, position: int, token: int) -> int:
    """The KV entry of one position: it depends on all before it, the token and the features put there."""
    here = [m for m in request.media if m.start <= position < m.start + m.num_tokens]
    return hash((previous, token, *((crc32(m.digest), position - m.start) for m in here)))


def next_token(request: GenerationRequest, entry: int, num_generated: int) -> int:
    """What the model draws after a position with this KV entry."""
    sampling = request.sampling
    token = hash((entry, sampling.seed)) % VOCAB_SIZE
    banned = (*sampling.eos_token_ids, *sampling.stop_token_ids) if num_generated < sampling.min_tokens else ()
    while token in banned:
        token = (token + 1) % VOCAB_SIZE
    return token


@dataclass
class Answer:
    tokens: tuple[int, ...]
    finish: FinishReason
    stop_token_id: int | None = None


def answer_alone(request: GenerationRequest, max_model_len: int) -> Answer:
    """What a request must produce whatever runs beside it; written without a scheduler."""
    entry = 0
    for position, token in enumerate(request.prompt_ids):
        entry = entry_of(entry, request, position, token)
    tokens: list[int] = []
    sampling = request.sampling
    while len(tokens) < sampling.max_tokens and len(request.prompt_ids) + len(tokens) < max_model_len:
        token = next_token(request, entry, len(tokens))
        tokens.append(token)
        if token in sampling.eos_token_ids:
            return Answer(tuple(tokens), FinishReason.STOP)
        if token in sampling.stop_token_ids:
            return Answer(tuple(tokens), FinishReason.STOP, token)
        entry = entry_of(entry, request, len(request.prompt_ids) + len(tokens) - 1, token)
    return Answer(tuple(tokens), FinishReason.LENGTH)


@dataclass
class _Slot:
    """What the runner keeps of one request: its tokens, its block table, its features."""

    request: GenerationRequest
    tokens: list[int]
    num_known: int  # with tokens that a submitted step is going to draw
    submitted_table: list[int] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    reported: set[int] = field(default_factory=set)


class FakeRunner:
    """Computes at `collect`, through block tables and a cache of slots, and asserts the contract at `submit`.

    An encode is ready `encode_steps` steps after the one that asked for it, or when a step waits for it
    `encode_waits` times. `fail_after` maps a request to the number of tokens after which it fails.
    """

    def __init__(
        self,
        block_size: int,
        max_requests: int,
        *,
        encode_steps: int = 0,
        encode_waits: int = 1,
        fail_after: dict[int, int] | None = None,
    ) -> None:
        self.steps: list[Step] = []
        self._block_size = block_size
        self._max_requests = max_requests
        self._encode_steps = encode_steps
        self._encode_waits = encode_waits
        self._fail_after = fail_after or {}
        self._slots: dict[int, _Slot] = {}
        self._ever_known: set[int] = set()
        self._cache: dict[int, int] = {}
        self._in_flight: deque[tuple[Step, dict[int, int]]] = deque()
        self._encodes: deque[tuple[int, int, int]] = deque()  # ready at step, request, index
        self._num_waits = 0

    @property
    def num_known(self) -> int:
        return len(self._slots)

    # -- what the scheduler promises --

    def submit(self, step: Step) -> None:
        assert len(self._in_flight) < 2
        assert step.chunks or step.encode or step.wait
        self.steps.append(step)
        busy = {chunk.request_id for other, _ in self._in_flight for chunk in other.chunks}
        for request_id in step.dropped:
            assert request_id not in busy
            del self._slots[request_id]
        for request in step.new:
            assert request.id not in self._ever_known
            self._ever_known.add(request.id)
            self._slots[request.id] = _Slot(request, list(request.prompt_ids), len(request.prompt_ids))
        assert len(self._slots) <= self._max_requests
        assert len({request_id for request_id, _ in step.encode}) == len(step.encode)
        assert all(request_id in self._slots for request_id, _ in step.encode)
        writes: dict[int, int] = {}
        for chunk in step.chunks:
            self._check_chunk(chunk, writes)
        self._in_flight.append((step, writes))

    def _check_chunk(self, chunk: Chunk, writes: dict[int, int]) -> None:
        slot = self._slots[chunk.request_id]
        end = chunk.start + chunk.count
        assert chunk.count > 0
        assert end <= slot.num_known
        assert chunk.sample == (end == slot.num_known and slot.request.sampling.max_tokens > 0)
        slot.num_known += chunk.sample
        assert chunk.table_start <= len(slot.submitted_table)
        slot.submitted_table[chunk.table_start :] = chunk.new_blocks
        for index, item in enumerate(slot.request.media):
            assert index in slot.reported or not (chunk.start < item.start + item.num_tokens and item.start < end)
        for position in range(chunk.start, end):
            block = slot.submitted_table[position // self._block_size]
            others = [*(w for _, w in self._in_flight), writes]
            assert all(w.get(block, chunk.request_id) == chunk.request_id for w in others), "written by two requests"
            writes[block] = chunk.request_id

    # -- what the runner does --

    def collect(self) -> StepResult:
        step, _ = self._in_flight.popleft()
        ready_at = step.id + self._encode_steps
        self._encodes += [(ready_at, request_id, index) for request_id, index in step.encode]
        samples, scored, failed = [], [], []
        for chunk in step.chunks:
            slot = self._slots[chunk.request_id]
            entry = self._compute(slot, chunk)
            scored += self._score(slot, chunk)
            num_generated = len(slot.tokens) - len(slot.request.prompt_ids)
            if num_generated == self._fail_after.get(chunk.request_id):
                failed.append((chunk.request_id, "out of luck"))
            elif chunk.sample:
                token = next_token(slot.request, entry, num_generated)
                slot.tokens.append(token)
                samples.append(Sample(chunk.request_id, token, _logprob(slot, token)))
        encoded = self._encoded(step)
        return StepResult(step.id, tuple(samples), tuple(scored), encoded, tuple(failed))

    def _compute(self, slot: _Slot, chunk: Chunk) -> int:
        slot.table[chunk.table_start :] = chunk.new_blocks
        entry = 0
        for position in range(chunk.start):
            entry = entry_of(entry, slot.request, position, slot.tokens[position])
            assert self._cache[self._place(slot, position)] == entry, "a KV entry is not the request's own"
        for position in range(chunk.start, chunk.start + chunk.count):
            entry = entry_of(entry, slot.request, position, slot.tokens[position])
            self._cache[self._place(slot, position)] = entry
        return entry

    def _place(self, slot: _Slot, position: int) -> int:
        return slot.table[position // self._block_size] * self._block_size + position % self._block_size

    def _score(self, slot: _Slot, chunk: Chunk) -> list[tuple[int, tuple[TokenLogprob, ...]]]:
        prompt = slot.request.prompt_ids
        if slot.request.sampling.prompt_logprobs is None or chunk.start + 1 >= len(prompt):
            return []
        positions = range(chunk.start + 1, min(chunk.start + chunk.count + 1, len(prompt)))
        return [(slot.request.id, tuple(TokenLogprob(prompt[p], -float(p), ()) for p in positions))]

    def _encoded(self, step: Step) -> tuple[tuple[int, int], ...]:
        self._num_waits = self._num_waits + 1 if step.wait else 0
        if self._num_waits >= self._encode_waits and self._encodes:
            self._encodes[0] = (0, *self._encodes[0][1:])
        encoded = []
        while self._encodes and self._encodes[0][0] <= step.id:
            _, request_id, index = self._encodes.popleft()
            encoded.append((request_id, index))
            if request_id in self._slots:
                self._slots[request_id].reported.add(index)
        return tuple(encoded)


def _logprob(slot: _Slot, token: int) -> TokenLogprob | None:
    return None if slot.request.sampling.logprobs is None else TokenLogprob(token, -1.0, ())
