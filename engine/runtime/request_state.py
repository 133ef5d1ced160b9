"""What the runner remembers of a request between steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.core.request import Chunk, GenerationRequest
from engine.runtime.sampler import SamplerRow

Int64 = NDArray[np.int64]


class RequestState:
    """Token values, block table and sampling state; created with `Step.new`, kept over preemption until dropped.

    `place` is where the device keeps its last token and its block table for decode steps.
    `num_known` tokens of `ids` have a value on the host: the prompt, then every generated token once collected.
    """

    def __init__(
        self, request: GenerationRequest, sampler: SamplerRow, positions: Int64 | None, delta: int, place: int
    ) -> None:
        self.request = request
        self.sampler = sampler
        self.place = place
        self.num_placed = 0  # leading entries of the table that its place on the device has
        self.num_prompt = len(request.prompt_ids)
        self.num_known = self.num_prompt
        self.ids: Int64 = np.empty(self.num_prompt + request.sampling.max_tokens, dtype=np.int64)
        self.ids[: self.num_prompt] = request.prompt_ids
        self.table: Int64 = np.empty(0, dtype=np.int64)
        self._positions = positions
        self._delta = delta

    def extend_table(self, chunk: Chunk) -> None:
        """Cut the block table to `table_start` entries and append the new blocks."""
        if chunk.new_blocks or chunk.table_start < len(self.table):
            new = np.asarray(chunk.new_blocks, dtype=np.int64)
            self.table = np.concatenate((self.table[: chunk.table_start], new))
            self.num_placed = min(self.num_placed, chunk.table_start)

    def slots(self, start: int, count: int, block_size: int) -> Int64:
        """Cache slots of positions [start, start + count)."""
        at = np.arange(start, start + count)
        return self.table[at // block_size] * block_size + at % block_size

    def positions(self, start: int, count: int) -> Int64:
        """Rotary positions (T, H, W) of tokens [start, start + count): int64 [3, count].

        Behind the prompt every axis counts on from the prompt's largest T.
        """
        at = np.arange(start, start + count)
        plain = np.broadcast_to(at + self._delta, (3, count))
        if self._positions is None or start >= self.num_prompt:
            return plain
        inside = min(count, self.num_prompt - start)
        return np.concatenate((self._positions[:, start : start + inside], plain[:, inside:]), axis=1)

    def decode_position(self, at: int) -> int:
        """The rotary position, the same on all axes, of token `at` behind the prompt."""
        return at + self._delta

    def append(self, token: int) -> None:
        """Give the next token its value."""
        self.ids[self.num_known] = token
        self.num_known += 1
