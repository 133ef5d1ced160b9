"""Turns a `Step` into tensors, runs the model, and turns the logits into a `StepResult`.

`launch` starts a step and `finish` waits for its result, so that on a GPU the next step can be launched while this one
runs: a token drawn by a step that is still under way is fed to the next one from device memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.core.request import (
    Chunk,
    GenerationRequest,
    Sample,
    SchedulerLimits,
    Step,
    StepResult,
    TokenLogprob,
)
from engine.kernels.paged_attention import PagedLayout
from engine.kernels.paths import DEFAULT, VARIANTS, Paths, of_prompts, taking
from engine.kernels.stage_decode import Places
from engine.layers.batch import Batch, LayerCache
from engine.models.positions import positions_from_spans
from engine.models.thinker import Features, Ming
from engine.runtime.constraint import Constraints
from engine.runtime.decode_graphs import DecodeGraphs, DecodeRow
from engine.runtime.encoder import EncoderRunner
from engine.runtime.expert_looks import ExpertLooks
from engine.runtime.fetch import Fetch
from engine.runtime.packed_graphs import SIZES, PackedGraphs
from engine.runtime.request_state import RequestState
from engine.runtime.sampler import Draw, SamplerRow, describe, sample, signed

SCORED_ROWS = 256  # prompt rows whose logits are held at once: V floats each


@dataclass(slots=True)
class Launched:
    """A step under way: what was drawn and for whom."""

    step_id: int
    states: list[RequestState] = field(default_factory=list)
    draw: Draw | None = None
    fetch: Fetch | None = None
    prompt_logprobs: list[tuple[int, tuple[TokenLogprob, ...]]] = field(default_factory=list)
    encoded: tuple[tuple[int, int], ...] = ()
    failed: tuple[tuple[int, str], ...] = ()
    experts: Fetch | None = None


class ModelRunner:
    """One rank's model with its cache and the state of every request it knows: at most `limits.step_requests`."""

    def __init__(
        self,
        model: Ming,
        caches: Sequence[LayerCache],
        encoder: EncoderRunner,
        device: torch.device,
        limits: SchedulerLimits,
        constraints: Constraints | None = None,
    ) -> None:
        self.model = model
        self.caches = caches
        self.encoder = encoder
        self.constraints = constraints or Constraints(None)
        self.device = device
        self.block_size = caches[0].k.shape[1]
        self.vocab_size = model.cfg.llm.vocab_size
        self.states: dict[int, RequestState] = {}
        self.places = Places.empty(limits.step_requests, -(-limits.max_model_len // self.block_size), device)
        self.expert_looks = ExpertLooks(model)
        self.graphs: DecodeGraphs | None = None
        self.packed_graphs: PackedGraphs | None = None
        self.step_tokens = limits.step_tokens
        self._free_places = list(range(limits.step_requests))

    @property
    def num_places(self) -> int:
        """The most requests that it knows at once; the last row of `places` is nobody's."""
        return len(self.places.tables) - 1

    def prepare_graphs(self, sizes: Sequence[int], paths: Paths = VARIANTS[DEFAULT]) -> None:
        """From now on run decode steps of up to the largest of `sizes` sequences without deciding anything anew.

        Steps with short prompts likewise.
        """
        self.graphs, self.packed_graphs = self.make_graphs(sizes, paths)
        self.graphs.capture_all()
        self.packed_graphs.capture_all()

    def make_graphs(self, sizes: Sequence[int], paths: Paths) -> tuple[DecodeGraphs, PackedGraphs]:
        """Graphs of decode steps, and of steps with short prompts, not captured yet."""
        decodes = DecodeGraphs(self.model, self.caches, self.places, sizes, self.expert_looks, paths)
        packed = [size for size in SIZES if size <= self.step_tokens]
        return decodes, PackedGraphs(self.model, self.caches, self.places.tables.shape[1], packed, paths)

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Start `step`; on a GPU this does not wait for it."""
        for request_id in step.dropped:
            self._free_places.append(self.states.pop(request_id).place)
            self.encoder.drop(request_id)
        for request in step.new:
            self.states[request.id] = self._start(request)
            self.encoder.add(request)
        self.encoder.start(step.encode)
        launched = Launched(step.id)
        if step.chunks:
            self._run(step.chunks, launched)
        launched.encoded, launched.failed = self.encoder.collect(wait=step.wait)
        launched.failed += self.constraints.take_failed()
        return launched

    def finish(self, launched: Launched) -> StepResult:
        """Wait for a launched step and read its tokens."""
        samples = self._read(launched)
        scored = tuple(launched.prompt_logprobs)
        experts = None if launched.experts is None else self.expert_looks.read(launched.experts)
        return StepResult(launched.step_id, samples, scored, launched.encoded, launched.failed, experts)

    def _start(self, request: GenerationRequest) -> RequestState:
        prompt = self._to_device(np.asarray(request.prompt_ids, dtype=np.int64))
        sampler = SamplerRow.start(request.sampling, prompt, self.vocab_size)
        sampler.constraint = self.constraints.start(request)
        place = self._free_places.pop()
        if not request.media:
            return RequestState(request, sampler, None, 0, place)
        spans = [(m.start, m.num_tokens, None if m.kind == "audio" else m.grid) for m in request.media]
        positions, delta = positions_from_spans(len(request.prompt_ids), spans)
        return RequestState(request, sampler, positions.numpy(), delta, place)

    def _run(self, chunks: Sequence[Chunk], launched: Launched) -> None:
        # Rows with one token take the decode path of the attention, so they come first.
        ordered = sorted(chunks, key=lambda chunk: chunk.count > 1)
        states = [self.states[chunk.request_id] for chunk in ordered]
        for state, chunk in zip(states, ordered, strict=True):
            state.extend_table(chunk)
        decodes = _only_decodes(ordered, states)
        if decodes and self.graphs is not None and len(ordered) <= self.graphs.most:
            self._decode(self.graphs, ordered, states, launched)
        else:
            with taking(of_prompts(sum(chunk.count for chunk in ordered))):
                self._run_packed(ordered, states, launched, decodes=decodes)

    def _run_packed(
        self, ordered: Sequence[Chunk], states: list[RequestState], launched: Launched, *, decodes: bool
    ) -> None:
        """Compute chunks of any lengths in one pass over their packed rows."""
        starts = [0, *np.cumsum([chunk.count for chunk in ordered]).tolist()]
        batch, features = self._batch(ordered, states, starts)
        ids = self._ids(ordered, states, starts)
        if decodes:
            with self.expert_looks.watched() as chosen:
                hidden = self.model(self.model.embed(ids), batch, self.caches)
            launched.experts = self.expert_looks.take(chosen, len(ordered))
        elif self.packed_graphs is not None and self.packed_graphs.takes(batch):
            hidden = self.packed_graphs.run(ids, batch)
        else:
            hidden = self.model(self.model.embed(ids, features), batch, self.caches)
        self._score_prompts(ordered, states, starts, hidden, launched)
        sampled = [i for i, chunk in enumerate(ordered) if chunk.sample]
        if sampled:
            last = self._to_device(np.asarray([starts[i + 1] - 1 for i in sampled]))
            self._draw(self.model.logits(hidden[last]), [states[i] for i in sampled], launched)

    def _draw(self, logits: Tensor, states: list[RequestState], launched: Launched) -> None:
        """Draw a token for each row of [B, V] and remember it on the device."""
        draw = sample(logits, [state.sampler for state in states], self._masks(states))
        self.places.last_tokens[self._to_device(np.asarray([state.place for state in states]))] = draw.tokens
        self._note(Draw(draw.tokens, draw.logprobs), states, launched)

    @staticmethod
    def _note(draw: Draw, states: list[RequestState], launched: Launched) -> None:
        launched.states, launched.draw, launched.fetch = states, draw, Fetch.start(draw.tokens)
        for state, token in zip(states, draw.tokens.unbind(), strict=True):
            state.sampler.note(token)

    def _decode(
        self, graphs: DecodeGraphs, chunks: Sequence[Chunk], states: list[RequestState], launched: Launched
    ) -> None:
        rows = [self._decode_row(chunk, state) for chunk, state in zip(chunks, states, strict=True)]
        plain = all(state.sampler.is_plain for state in states)
        logits, tokens = graphs.run(rows, draw=plain)
        launched.experts = self.expert_looks.take(graphs.chosen(len(rows)), len(rows))
        if tokens is None:
            self._draw(logits, states, launched)
        else:
            self._note(Draw(tokens, None), states, launched)

    def _decode_row(self, chunk: Chunk, state: RequestState) -> DecodeRow:
        at = -1
        if len(state.table) == state.num_placed + 1:
            at = state.num_placed
        elif len(state.table) > state.num_placed:
            entries = self._to_device(state.table[state.num_placed :])
            self.places.tables[state.place, state.num_placed : len(state.table)] = entries
        state.num_placed = len(state.table)
        sampling = state.request.sampling
        return DecodeRow(
            place=state.place,
            token=int(state.ids[chunk.start]) if chunk.start < state.num_known else None,
            position=state.decode_position(chunk.start),
            slot=int(state.table[chunk.start // self.block_size]) * self.block_size + chunk.start % self.block_size,
            length=chunk.start + 1,
            table_at=at,
            table_entry=int(state.table[at]) if at >= 0 else 0,
            seed=signed(sampling.seed),
            index=state.sampler.num_generated,
            temperature=sampling.temperature,
        )

    def _masks(self, states: Sequence[RequestState]) -> Sequence[Tensor | None]:
        """What constrained rows may draw; made while the device computes the logits."""
        rows = [state.sampler.constraint for state in states]
        if not any(rows):
            return ()
        return self.constraints.masks([state.request.id for state in states], rows, self.device)

    def _ids(self, chunks: Sequence[Chunk], states: Sequence[RequestState], starts: Sequence[int]) -> Tensor:
        """Packed token ids [T]; a token whose value is still on its way is taken from the device."""
        host = np.empty(starts[-1], dtype=np.int64)
        pending: list[tuple[int, int]] = []  # packed row, place
        for chunk, state, at in zip(chunks, states, starts[:-1], strict=True):
            end = chunk.start + chunk.count
            known = min(end, state.num_known)
            host[at : at + known - chunk.start] = state.ids[chunk.start : known]
            if known < end:
                pending.append((at + chunk.count - 1, state.place))
        ids = torch.from_numpy(host).to(self.device, non_blocking=True)
        if pending:
            rows, places = self._to_device(np.asarray(pending)).unbind(dim=1)
            ids[rows] = self.places.last_tokens[places]
        return ids

    def _batch(
        self, chunks: Sequence[Chunk], states: Sequence[RequestState], starts: Sequence[int]
    ) -> tuple[Batch, list[Features]]:
        pairs = list(zip(states, chunks, strict=True))
        positions = np.concatenate([s.positions(c.start, c.count) for s, c in pairs], axis=1)
        slots = np.concatenate([s.slots(c.start, c.count, self.block_size) for s, c in pairs])
        lengths = tuple(c.start + c.count for c in chunks)
        longest = -(-max(lengths) // self.block_size)
        tables = np.zeros((len(chunks), longest), dtype=np.int64)
        for row, state in zip(tables, states, strict=True):
            used = min(len(state.table), longest)
            row[:used] = state.table[:used]
        layout = PagedLayout(
            self._to_device(tables),
            self._to_device(np.asarray(lengths)),
            sum(c.count == 1 for c in chunks),
            tuple(starts),
            lengths,
            self.places.tables.shape[1] * self.block_size,
        )
        image, audio, features = self._media_rows(chunks, states, starts)
        return Batch(self._to_device(positions), self._to_device(slots), layout, image, audio), features

    def _media_rows(
        self, chunks: Sequence[Chunk], states: Sequence[RequestState], starts: Sequence[int]
    ) -> tuple[Tensor | None, Tensor | None, list[Features]]:
        """Packed rows that belong to the image and the audio gate, and the features written over them."""
        image: list[int] = []
        audio: list[int] = []
        features: list[Features] = []
        for chunk, state, at in zip(chunks, states, starts[:-1], strict=True):
            for index, media in enumerate(state.request.media):
                first = max(chunk.start, media.start)
                end = min(chunk.start + chunk.count, media.start + media.num_tokens)
                if first >= end:
                    continue
                offset = at - chunk.start
                (audio if media.kind == "audio" else image).extend(range(first + offset, end + offset))
                # A clip whose features are shorter than its placeholders keeps word embeddings behind them.
                values = self.encoder.features(state.request.id, index)[first - media.start : end - media.start]
                if len(values):
                    rows = torch.arange(first + offset, first + offset + len(values), device=self.device)
                    features.append(Features(rows, values))
        return self._rows(image), self._rows(audio), features

    def _rows(self, rows: list[int]) -> Tensor | None:
        return self._to_device(np.asarray(rows)) if rows else None

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def _score_prompts(
        self,
        chunks: Sequence[Chunk],
        states: Sequence[RequestState],
        starts: Sequence[int],
        hidden: Tensor,
        launched: Launched,
    ) -> None:
        """Log-probabilities of the prompt tokens that this step's rows predict, for requests that asked."""
        for chunk, state, at in zip(chunks, states, starts[:-1], strict=True):
            wanted = state.request.sampling.prompt_logprobs
            count = min(chunk.start + chunk.count, state.num_prompt - 1) - chunk.start
            if wanted is None or count <= 0:
                continue
            targets = torch.from_numpy(state.ids[chunk.start + 1 : chunk.start + 1 + count]).to(self.device)
            scored: list[TokenLogprob] = []
            for first in range(0, count, SCORED_ROWS):
                rows = slice(first, min(first + SCORED_ROWS, count))
                logprobs = self.model.logits(hidden[at : at + count][rows]).log_softmax(dim=-1)
                found = describe(logprobs, targets[rows], [wanted] * logprobs.shape[0])
                scored.extend(entry for entry in found if entry is not None)
            launched.prompt_logprobs.append((chunk.request_id, tuple(scored)))

    def _read(self, launched: Launched) -> tuple[Sample, ...]:
        states, draw = launched.states, launched.draw
        if draw is None or launched.fetch is None:
            return ()
        tokens: list[int] = launched.fetch.wait().tolist()
        counts = [state.request.sampling.logprobs for state in states]
        described = [None] * len(states) if draw.logprobs is None else describe(draw.logprobs, draw.tokens, counts)
        for state, token in zip(states, tokens, strict=True):
            state.append(token)
        return tuple(
            Sample(state.request.id, token, logprob)
            for state, token, logprob in zip(states, tokens, described, strict=True)
        )


def _only_decodes(chunks: Sequence[Chunk], states: Sequence[RequestState]) -> bool:
    """Whether the step is one token behind the prompt for each sequence."""
    return all(c.count == 1 and c.sample and c.start >= s.num_prompt for c, s in zip(chunks, states, strict=True))


class LocalRunner:
    """The scheduler's `Runner` over one rank in this process."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._under_way: deque[Launched] = deque()

    def submit(self, step: Step) -> None:
        """Start a step."""
        self._under_way.append(self._runner.launch(step))

    def collect(self) -> StepResult:
        """Wait for the oldest step."""
        return self._runner.finish(self._under_way.popleft())
