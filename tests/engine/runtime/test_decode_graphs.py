"""Decode steps on static buffers give what ordinary steps give; on a GPU the same tests replay captured graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.core.loop import EngineLoop
from engine.core.request import GenerationRequest
from engine.goldens.bfloat16 import relative_l2
from engine.goldens.session import GoldenEngine
from engine.runtime.build import load_engine
from engine.runtime.decode_graphs import DecodeGraphs, graph_sizes
from tests.engine.runtime.forced import LIMITS, NUM_STEPS, forced_logits, step_errors
from tests.engine.runtime.helpers import make_loop, media_request, text_request, tokens

REQUESTS = [
    *(text_request(i, length) for i, length in enumerate([1, 2, 17, 40, 90, 33], start=1)),
    text_request(7, 12, temperature=1.0, seed=3),
    text_request(8, 12, temperature=0.8, seed=-4, top_k=20),
    text_request(9, 5, temperature=0.7, repetition_penalty=1.3, seed=5),
    text_request(10, 9, logprobs=2),
    media_request(21, [(1, 4, 6)], [61]),
]


def static_loop(model: Path, sizes: list[int], **options: Any) -> EngineLoop:
    """An engine whose decode steps of up to `sizes[-1]` sequences use static buffers."""
    fields = {"device": "cpu", "num_threads": 1, "kv_tokens": 4096} | options
    loaded = load_engine(EngineConfig(model=str(model), **fields))
    loaded.runner.prepare_graphs(sizes)
    return loaded.make_loop()


@pytest.fixture(scope="module")
def ordinary(tiny_model: Path) -> dict[int, list[int]]:
    return tokens(make_loop(tiny_model), REQUESTS)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the steps that ran on static buffers."""
    seen: list[int] = []
    run_rows = DecodeGraphs.run

    def spy(self: DecodeGraphs, rows: Any, **options: Any) -> Any:
        seen.append(len(rows))
        return run_rows(self, rows, **options)

    monkeypatch.setattr(DecodeGraphs, "run", spy)
    return seen


@pytest.mark.slow
def test_static_steps_equal_ordinary_ones(tiny_model: Path, ordinary: dict[int, list[int]], steps: list[int]) -> None:
    assert tokens(static_loop(tiny_model, [4, 12]), REQUESTS) == ordinary
    assert len(steps) > 8
    assert 4 < max(steps) < 12  # padded


@pytest.mark.slow
def test_larger_batches_than_prepared_take_the_ordinary_path(
    tiny_model: Path, ordinary: dict[int, list[int]], steps: list[int]
) -> None:
    """The two paths alternate while requests come and go: what one leaves, the other continues."""
    assert tokens(static_loop(tiny_model, [1, 3], step_tokens=24), REQUESTS) == ordinary
    assert steps
    assert max(steps) <= 3


@pytest.mark.slow
def test_tables_follow_preemption(tiny_model: Path, ordinary: dict[int, list[int]], steps: list[int]) -> None:
    loop = static_loop(tiny_model, [2, 16], kv_tokens=160, block_size=4, max_model_len=128)
    assert tokens(loop, REQUESTS) == ordinary
    assert loop.stats().preemptions > 0
    assert steps
    assert loop.stats().num_free_blocks == loop.stats().num_blocks


@pytest.mark.slow
def test_places_are_used_again(tiny_model: Path, ordinary: dict[int, list[int]]) -> None:
    """More requests than places, in waves."""
    loop = static_loop(tiny_model, [3], step_requests=3)
    assert tokens(loop, REQUESTS) == ordinary
    again = [GenerationRequest(r.id + 100, r.prompt_ids, r.sampling, r.media) for r in REQUESTS]
    assert {i - 100: found for i, found in tokens(loop, again).items()} == ordinary


def test_sizes_waste_few_rows() -> None:
    for most in (1, 5, 64, 256):
        sizes = graph_sizes(most)
        assert sizes[-1] == most
        for batch in range(1, most + 1):
            size = next(size for size in sizes if size >= batch)
            assert size <= batch + max(1, batch // 4)


@pytest.mark.slow
def test_logits_on_static_buffers(tiny_model: Path) -> None:
    """At forced tokens, batches of several sizes and padded ones: but for the order of sums those of ordinary steps."""
    config = EngineConfig(str(tiny_model), device="cpu", dtype="float32", num_threads=1, eager=True, **LIMITS)
    loaded = load_engine(config)
    engine = GoldenEngine(loaded, loaded.make_loop())
    static = forced_logits(engine, "lean")
    errors = step_errors(static, forced_logits(engine, None, static))
    assert len(errors) == NUM_STEPS
    assert 0 < max(errors) < 1e-5
    (first, second), *_ = static["several.logits"].split(2)
    assert relative_l2(first, second) > 0.1  # tokens matter
