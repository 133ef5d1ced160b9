"""Steps with short prompts on static buffers: every token is a row of its own, as if each were decoded.

An ordinary step with a prompt launches kernel by kernel, which takes longer than computing a few hundred tokens. Row i
of a prompt attends to the keys up to its own, which all rows have written before any attends: so the launches of a
decode step compute it, and can be captured once for each number of rows. Only text: pictures and sounds replace
embeddings and choose experts by gates of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.kernels.paged_attention import PagedLayout
from engine.kernels.paths import DEFAULT, VARIANTS, Paths, taking
from engine.layers.batch import Batch, LayerCache
from engine.models.thinker import Ming
from engine.runtime.capture import Capturer

log = logging.getLogger(__name__)

SIZES: Final = (16, 32, 64, 128, 256)  # rows; those that pad a step choose no experts of their own
MOST_KEYS: Final = 1 << 17  # that all rows of prompts attend to: each reads its keys for itself
MOST_CONTEXT: Final = 1 << 13  # of any row: beside so many others one program walks through all its keys


@dataclass(frozen=True, slots=True)
class _Sized:
    """Buffers and captured work of one number of rows. A graph knows addresses only: they are kept here."""

    ids: Tensor  # int64 [R]
    positions: Tensor  # int64 [3, R]
    slots: Tensor  # int64 [R]
    lengths: Tensor  # int64 [R]
    tables: Tensor  # int64 [R, N], filled as far as the sequences reach
    hidden: list[Tensor]  # [R, D], one
    model: Callable[[], None]


class PackedGraphs:
    """Runs steps of up to `sizes[-1]` tokens."""

    def __init__(
        self,
        model: Ming,
        caches: Sequence[LayerCache],
        num_entries: int,
        sizes: Sequence[int],
        paths: Paths = VARIANTS[DEFAULT],
    ) -> None:
        """For block tables of `num_entries`; `paths` are those of decode steps."""
        self.sizes = sorted(sizes)
        self._model = model
        self._caches = caches
        self._num_entries = num_entries
        # Rows of one sequence read what others of them write: in a launch before they attend.
        self._paths = replace(paths, heads_in_attention=False, keys_early=False)
        self._device = caches[0].k.device
        self._capturer = Capturer()
        self._sized: dict[int, _Sized] = {}

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Prepare every size, the largest first, so that the smaller ones fit into its memory."""
        started = time.perf_counter()
        for size in reversed(self.sizes):
            self._sized[size] = self._prepare(size, captures=self._device.type == "cuda")
        log.info("prepared steps with prompts of %s tokens in %.1f s", self.sizes, time.perf_counter() - started)

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Launch once, uncaptured, what steps of every size launch."""
        for size in reversed(self.sizes):
            self._prepare(size, captures=False).model()

    def takes(self, batch: Batch) -> bool:
        """Whether a step is short enough, and text alone."""
        layout = batch.layout
        if batch.image_rows is not None or batch.audio_rows is not None or not self.sizes:
            return False
        if layout.query_starts[-1] > self.sizes[-1]:
            return False
        if max(layout.lengths) > MOST_CONTEXT:
            return False
        news = (end - start for start, end in pairwise(layout.query_starts))
        return sum(new * length for new, length in zip(news, layout.lengths, strict=True) if new > 1) <= MOST_KEYS

    def run(self, ids: Tensor, batch: Batch) -> Tensor:
        """Packed tokens int64 [T] -> normed hidden states [T, D], which the next step overwrites."""
        num_tokens = len(ids)
        sized = self._sized[next(size for size in self.sizes if size >= num_tokens)]
        rows = self._rows(batch.layout, len(sized.ids))
        sequences, lengths = torch.from_numpy(rows).to(self._device, non_blocking=True)
        # Rows that pad a step are another one again, that with the fewest keys to read, and store nothing.
        like = int(rows[1].argmin())
        for target, source in ((sized.ids, ids), (sized.positions, batch.positions), (sized.slots, batch.slots)):
            target[..., :num_tokens].copy_(source)
            target[..., num_tokens:].copy_(source[..., like : like + 1])
        sized.slots[num_tokens:].fill_(-1)
        sized.lengths.copy_(lengths)
        tables = batch.layout.block_tables
        sized.tables[:, : tables.shape[1]].copy_(tables[sequences])
        sized.model()
        return sized.hidden[0][:num_tokens]

    @staticmethod
    def _rows(layout: PagedLayout, size: int) -> np.ndarray:
        """-> the sequence of each row, and how many tokens it attends to: int64 [2, size]."""
        rows = np.zeros((2, size), dtype=np.int64)
        for sequence, (start, end) in enumerate(pairwise(layout.query_starts)):
            rows[0, start:end] = sequence
            rows[1, start:end] = np.arange(1 - (end - start), 1) + layout.lengths[sequence]
        end = layout.query_starts[-1]
        rows[:, end:] = rows[:, [rows[1, :end].argmin()]]
        return rows

    def _prepare(self, size: int, *, captures: bool) -> _Sized:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=self._device)

        ids, positions, slots, lengths = zeros(size), zeros(3, size), zeros(size) - 1, zeros(size) + 1
        tables = zeros(size, self._num_entries)
        capacity = self._num_entries * self._caches[0].k.shape[1]
        layout = PagedLayout(tables, lengths, size, tuple(range(size + 1)), (capacity,) * size)
        batch = Batch(positions, slots, layout)
        hidden: list[Tensor] = []

        def model() -> None:
            with taking(self._paths):
                hidden[:] = [self._model(self._model.embed(ids), batch, self._caches)]

        work = self._capturer.capture(model) if captures else model
        return _Sized(ids, positions, slots, lengths, tables, hidden, work)
