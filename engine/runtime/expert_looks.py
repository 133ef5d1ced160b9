"""How many experts decode steps touch, seen while serving.

The rate of a mixture of experts rests on it: streams that say the same things share experts and look faster than real
ones. Every 32nd step is looked at, which costs one small launch and a copy that nothing waits for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.core.request import ExpertLook
from engine.layers.moe import SparseMoE
from engine.models.thinker import Ming
from engine.runtime.fetch import Fetch

EVERY = 32  # decode steps


class ExpertLooks:
    """Watches the routers of one rank's model; every rank chooses alike."""

    def __init__(self, model: Ming) -> None:
        self._num_experts = model.cfg.llm.num_experts
        self._top_k = model.cfg.llm.num_experts_per_tok
        self._chosen: list[Tensor] | None = None
        self._seen: dict[int, list[float]] | None = None
        self._num_steps = 0
        for layer in model.model.layers:
            if isinstance(layer.mlp, SparseMoE):
                layer.mlp.router.register_forward_hook(self._note)

    def _note(self, _router: Any, _args: Any, out: tuple[Tensor, Tensor]) -> None:
        if self._chosen is not None:
            self._chosen.append(out[0])

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Expert ids [T, k] of each MoE layer that runs while the context is open.

        Of a captured step they are memory that every replay fills anew, as long as the list is kept.
        """
        chosen: list[Tensor] = []
        self._chosen = chosen
        try:
            yield chosen
        finally:
            self._chosen = None

    @contextmanager
    def every_step(self) -> Iterator[dict[int, list[float]]]:
        """Every decode step that is launched while the context is open is looked at.

        Sequences of a step -> distinct experts of a layer, mean over layers, of each such step whose result was read.
        """
        seen: dict[int, list[float]] = {}
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None

    def take(self, chosen: Sequence[Tensor], batch: int) -> Fetch | None:
        """Begin to fetch the choice of a decode step of `batch` sequences, if it is this one's turn: [L, B, k]."""
        turn = self._seen is not None or self._num_steps % EVERY == 0
        self._num_steps += 1
        return Fetch.start(torch.stack([ids[:batch] for ids in chosen])) if turn and chosen else None

    def read(self, fetch: Fetch) -> ExpertLook:
        """Count them."""
        ids = fetch.wait()
        num_layers, batch, _ = ids.shape
        apart = ids + self._num_experts * torch.arange(num_layers)[:, None, None]
        distinct = torch.bincount(apart.flatten(), minlength=1).count_nonzero().item() / num_layers
        if self._seen is not None:
            self._seen.setdefault(batch, []).append(distinct)
        return ExpertLook(distinct, self._num_experts * (1 - (1 - self._top_k / self._num_experts) ** batch))
