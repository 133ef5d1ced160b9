"""A step in the making."""

from __future__ import annotations

from engine.core.request import Chunk, GenerationRequest, Step
from engine.core.state import RequestState


class StepPlan:
    """Collects chunks and encodes under a token budget, and moves the counters of their requests."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._most = budget  # tokens of all chunks together
        self.encode: list[tuple[int, int]] = []
        self._chunks: list[Chunk] = []
        self._new: list[GenerationRequest] = []

    @property
    def is_empty(self) -> bool:
        return not self._chunks and not self.encode

    def limit(self, num_tokens: int) -> None:
        """Lower the budget so that all chunks together, those to come included, have at most `num_tokens`."""
        lower = min(num_tokens, self._most)
        self.budget -= self._most - lower
        self._most = lower

    def add_chunk(self, state: RequestState, count: int) -> None:
        """Compute the next `count` tokens, for which the request holds blocks, and draw one if they are the last."""
        start, sent, blocks = state.num_scheduled, state.num_sent_blocks, state.blocks
        end = start + count
        sample = end == state.num_tokens and state.max_new_tokens > 0
        new_blocks = tuple(blocks[sent:]) if sent < len(blocks) else ()
        self._chunks.append(Chunk(state.id, start, count, sent, new_blocks, sample))
        self.budget -= count
        state.num_scheduled = end
        state.num_tokens += sample
        state.num_sent_blocks = len(blocks)
        state.in_flight += 1
        if not state.sent:
            self._send(state)

    def add_encode(self, state: RequestState, index: int) -> None:
        self.encode.append((state.id, index))
        if not state.sent:
            self._send(state)

    def step(self, step_id: int, dropped: list[int]) -> Step:
        """The finished step; an empty one waits for media."""
        new, chunks, encode = tuple(self._new), tuple(self._chunks), tuple(self.encode)
        return Step(step_id, new, chunks, tuple(dropped), encode, wait=self.is_empty)

    def _send(self, state: RequestState) -> None:
        state.sent = True
        self._new.append(state.request)
