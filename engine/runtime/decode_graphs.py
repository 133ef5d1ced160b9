"""Decode steps with nothing left to decide: static buffers, one captured graph for each batch size.

A step of a single new token a sequence always launches the same kernels on the same memory. On a GPU they are captured
once, and a step is one copy to the device and one launch. Without a GPU the same buffers run uncaptured.
"""

from __future__ import annotations

import logging
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.kernels.gumbel import Kept, gumbel_draw
from engine.kernels.paged_attention import PagedLayout
from engine.kernels.paths import DEFAULT, VARIANTS, Paths, taking
from engine.kernels.stage_decode import Column, Places, Staged, stage_decode
from engine.layers.batch import Batch, LayerCache
from engine.models.thinker import Ming
from engine.runtime.capture import Capturer
from engine.runtime.expert_looks import ExpertLooks

log = logging.getLogger(__name__)

IN_FLIGHT = 4  # host buffers in turn; at most two steps are under way


@dataclass(frozen=True, slots=True)
class _Sized:
    """Buffers and captured work of one batch size: the model up to the logits, and a draw of plain rows.

    A graph knows addresses only: every tensor that it uses and does not make is kept here.
    """

    rows: Tensor
    staged: Staged
    logits: Tensor
    tokens: Tensor
    chosen: list[Tensor]
    model: Callable[[], None]
    draw: Callable[[], None]


@dataclass(slots=True)
class DecodeRow:
    """One sequence of a step, in Python numbers; `token` None is the one last drawn at `place`."""

    place: int
    token: int | None
    position: int
    slot: int
    length: int
    table_at: int
    table_entry: int
    seed: int
    index: int
    temperature: float

    def pack(self, row: np.ndarray) -> None:
        """Write the staged columns."""
        bits = struct.unpack("<q", struct.pack("<d", self.temperature))[0]
        token = -1 if self.token is None else self.token
        row[:] = (
            *(token, self.place, self.position, self.slot, self.length, self.table_at, self.table_entry),
            *(self.seed, self.index, bits, self.place),
        )


class DecodeGraphs:
    """Runs decode steps of up to `sizes[-1]` sequences."""

    def __init__(
        self,
        model: Ming,
        caches: Sequence[LayerCache],
        places: Places,
        sizes: Sequence[int],
        looks: ExpertLooks,
        paths: Paths = VARIANTS[DEFAULT],
    ) -> None:
        self.sizes = sorted(sizes)
        self._model = model
        self._caches = caches
        self._places = places
        self._looks = looks
        self._paths = paths
        self._device = places.tables.device
        self._captures = self._device.type == "cuda"
        self._sized: dict[int, _Sized] = {}
        self._capturer = Capturer()
        self._host = deque(
            torch.zeros(self.sizes[-1], Column.COUNT, dtype=torch.int64, pin_memory=self._captures)
            for _ in range(IN_FLIGHT)
        )

    @property
    def most(self) -> int:
        """The most sequences of a step."""
        return self.sizes[-1]

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Prepare every batch size, the largest first, so that the smaller ones fit into its memory."""
        started = time.perf_counter()
        for size in reversed(self.sizes):
            self._sized[size] = self._prepare(size, captures=self._captures)
        log.info("prepared decode steps of %s sequences in %.1f s", self.sizes, time.perf_counter() - started)

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Launch once, uncaptured, what steps of every batch size launch, without sequences."""
        for size in reversed(self.sizes):
            sized = self._prepare(size, captures=False)
            sized.model()
            sized.draw()

    def run(self, rows: Sequence[DecodeRow], *, draw: bool) -> tuple[Tensor, Tensor | None]:
        """Launch one step: -> float32 logits [B, V], and with `draw` the tokens int64 [B] of its plain rows.

        Both are overwritten by the next step.
        """
        sized = self._sized_for(len(rows))
        sized.rows.copy_(self._stage(rows, len(sized.rows)), non_blocking=True)
        sized.model()
        if not draw:
            return sized.logits[: len(rows)], None
        sized.draw()
        return sized.logits[: len(rows)], sized.tokens[: len(rows)]

    def chosen(self, batch: int) -> Sequence[Tensor]:
        """Expert ids [B', k] of each MoE layer of the last step, which had `batch` sequences and may be padded."""
        return self._sized_for(batch).chosen

    def _sized_for(self, batch: int) -> _Sized:
        return self._sized[next(size for size in self.sizes if size >= batch)]

    def _stage(self, rows: Sequence[DecodeRow], size: int) -> Tensor:
        """Rows on the host, padded with copies of the first that store nothing: they choose no experts of their own."""
        host = self._host[0][:size]
        self._host.rotate(-1)
        packed = host.numpy()
        for row, target in zip(rows, packed, strict=False):
            row.pack(target)
        packed[len(rows) :] = packed[0]
        packed[len(rows) :, Column.SLOT] = -1
        packed[len(rows) :, Column.KEEP] = len(self._places.last_tokens) - 1
        return host

    def _prepare(self, size: int, *, captures: bool) -> _Sized:
        staged = Staged.empty(size, self._places.tables.shape[1], self._device)
        rows = torch.zeros(size, Column.COUNT, dtype=torch.int64, device=self._device)
        rows[:, Column.SLOT] = -1
        rows[:, Column.LENGTH] = 1
        rows[:, Column.TABLE_AT] = -1
        capacity = staged.tables.shape[1] * self._caches[0].k.shape[1]
        layout = PagedLayout(staged.tables, staged.lengths, size, tuple(range(size + 1)), (capacity,) * size)
        batch = Batch(staged.positions, staged.slots, layout)
        logits = torch.empty(size, self._model.cfg.llm.vocab_size, dtype=torch.float32, device=self._device)
        tokens = torch.empty(size, dtype=torch.int64, device=self._device)

        chosen: list[Tensor] = []

        def model() -> None:
            stage_decode(rows, self._places, self._caches[0].k.shape[1], staged)
            with self._looks.watched() as seen:
                hidden = self._model(self._model.embed(staged.ids), batch, self._caches)
            chosen[:] = seen
            self._model.logits(hidden, logits)

        def draw() -> None:
            kept = Kept(self._places.last_tokens, rows[:, Column.KEEP])
            gumbel_draw(logits, staged.temperatures, staged.seeds, staged.indices, tokens, kept)

        work = [self._by_paths(launch) for launch in (model, draw)]
        if captures:
            work = [self._capturer.capture(each) for each in work]
        return _Sized(rows, staged, logits, tokens, chosen, *work)

    def _by_paths(self, launch: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            with taking(self._paths):
                launch()

        return work


def graph_sizes(most: int) -> list[int]:
    """Batch sizes to capture: every small one, then in steps that waste at most a fifth of the rows."""
    sizes = [*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, 65, 8)]
    sizes += list(range(80, 129, 16)) + list(range(160, 257, 32))
    return sorted({size for size in sizes if size < most} | {min(most, 256)})
