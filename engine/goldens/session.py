"""A model of a case folder behind the engine's own loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import Device, EngineConfig
from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, GenerationRequest
from engine.errors import EngineError
from engine.layers.batch import LayerCache
from engine.models.observe import grids_of
from engine.models.positions import PatchTokens, batch_positions
from engine.models.thinker import Ming
from engine.runtime.build import LoadedEngine, load_engine


@dataclass
class GoldenEngine:
    """Runs requests one after another, and lends its model and cache to cases that look inside."""

    loaded: LoadedEngine
    loop: EngineLoop
    _ids: Iterator[int] = field(default_factory=count)

    @classmethod
    def load(cls, folder: Path, device: Device = "cpu", **options: Any) -> GoldenEngine:
        """The checkpoint of `folder`, in float32; `options` override that. Steps are eager, to be watched."""
        fields: dict[str, Any] = {"dtype": "float32", "block_size": 4, "kv_tokens": 2048, "num_threads": 1} | options
        loaded = load_engine(EngineConfig(model=str(folder), device=device, eager=True, **fields))
        return cls(loaded, loaded.make_loop())

    @property
    def model(self) -> Ming:
        return self.loaded.runner.model

    @property
    def caches(self) -> list[LayerCache]:
        return list(self.loaded.runner.caches)

    @property
    def device(self) -> torch.device:
        return self.loaded.runner.device

    @property
    def block_size(self) -> int:
        return self.loaded.runner.block_size

    def next_id(self) -> int:
        """An id that no earlier request of this engine had."""
        return next(self._ids)

    def positions(self, ids: Tensor, image_grids: Tensor | None) -> tuple[Tensor, int]:
        """Rotary positions [3, T] and rope_delta of one prompt."""
        found, delta = batch_positions(ids[None], PatchTokens.of(self.model.cfg.llm), grids_of(image_grids))
        return found[:, 0], int(delta)

    def run(self, request: GenerationRequest) -> list[int]:
        """Generate to the end and return the tokens."""
        self.loop.submit(request)
        tokens: list[int] = []
        while self.loop.has_work:
            for output in self.loop.run_once():
                tokens.extend(output.tokens)
                if output.finish is FinishReason.ERROR:
                    raise EngineError(output.error or "the request failed")
        return tokens

    @contextmanager
    def recorded_logits(self) -> Iterator[list[Tensor]]:
        """The logits rows of every step inside the block, in order."""
        seen: list[Tensor] = []
        head = self.model.model.lm_head
        handle = head.register_forward_hook(lambda _module, _args, out: seen.append(out.float().clone()))
        try:
            with torch.inference_mode():
                yield seen
        finally:
            handle.remove()
