"""Running requests through scheduler and model in one process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import EngineConfig
from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, GenerationRequest, MediaInput, Output, SamplingParams
from engine.runtime.build import LoadedEngine, load_engine


def make_loop(model: Path, **options: Any) -> EngineLoop:
    """A loop over the model in `model`; `options` override fields of `EngineConfig`."""
    fields = {"device": "cpu", "num_threads": 1, "kv_tokens": 4096} | options
    return _load(EngineConfig(model=str(model), **fields)).make_loop()


@cache
def _load(config: EngineConfig) -> LoadedEngine:
    """One model for all loops of a configuration: a loop that has ended leaves used pages and encoded media behind."""
    return load_engine(config)


def text_request(request_id: int, length: int, max_tokens: int = 12, **sampling: Any) -> GenerationRequest:
    """A prompt of random ids, the same for the same id and length."""
    ids = random.Random(request_id * 1000 + length).choices(range(1900), k=length)
    return GenerationRequest(request_id, tuple(ids), SamplingParams(max_tokens, **({"temperature": 0.0} | sampling)))


def run(loop: EngineLoop, requests: Sequence[GenerationRequest]) -> dict[int, list[Output]]:
    """Outputs of every request, by id."""
    for request in requests:
        loop.submit(request)
    outputs: dict[int, list[Output]] = {request.id: [] for request in requests}
    while loop.has_work:
        for output in loop.run_once():
            outputs[output.request_id].append(output)
    return outputs


def tokens(loop: EngineLoop, requests: Sequence[GenerationRequest]) -> dict[int, list[int]]:
    """Tokens of every request, which must all end well."""
    found = run(loop, requests)
    for outputs in found.values():
        assert [o.finish for o in outputs if o.finish] in ([FinishReason.LENGTH], [FinishReason.STOP]), outputs[-1]
    return {request_id: [t for o in outputs for t in o.tokens] for request_id, outputs in found.items()}


def media_request(request_id: int, grids: Sequence[tuple[int, int, int]], clips: Sequence[int]) -> GenerationRequest:
    """Random patches for each grid (t 1), then clips of that many mel frames, text around each."""
    rng = np.random.default_rng(request_id)
    ids: list[int] = rng.integers(0, 1900, 5).tolist()
    media = []
    for grid in grids:
        count = grid[0] * grid[1] * grid[2]
        media.append(_medium("image", len(ids), count // 4, grid, rng.standard_normal((count, 1536), np.float32)))
        ids += [7] * (count // 4) + rng.integers(0, 1900, 3).tolist()
    for frames in clips:
        media.append(_medium("audio", len(ids), -(-frames // 4), None, rng.standard_normal((frames, 128), np.float32)))
        ids += [8] * -(-frames // 4) + rng.integers(0, 1900, 3).tolist()
    return GenerationRequest(request_id, tuple(ids), SamplingParams(10, temperature=0.0), tuple(media))


def _medium(kind: Any, start: int, count: int, grid: tuple[int, int, int] | None, array: Any) -> MediaInput:
    data = array.tobytes()
    return MediaInput(kind, start, count, grid, hashlib.sha256(data).digest(), array.shape, "float32", data)
