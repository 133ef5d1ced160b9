"""Short prompts as rows of a static step say what ordinary steps say; on a GPU they replay captured graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.core.request import GenerationRequest
from engine.goldens.bfloat16 import relative_l2
from engine.kernels.paged_attention import PagedLayout
from engine.kernels.paths import DEFAULT, VARIANTS
from engine.layers.batch import Batch
from engine.runtime.build import load_engine
from engine.runtime.packed_graphs import MOST_CONTEXT, MOST_KEYS, SIZES, PackedGraphs
from tests.engine.runtime.helpers import make_loop, media_request, text_request, tokens
from tests.engine.runtime.test_decode_graphs import static_loop

REQUESTS = [
    *(text_request(i, length) for i, length in enumerate([1, 2, 17, 40, 90, 33, 150], start=1)),
    text_request(8, 12, temperature=1.0, seed=3),
    text_request(9, 30, prompt_logprobs=2, logprobs=1),
    media_request(21, [(1, 4, 6)], [61]),
]


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tokens and sequences of the steps that ran so."""
    seen: list[tuple[int, int]] = []
    run = PackedGraphs.run

    def spy(self: PackedGraphs, ids: Tensor, batch: Batch) -> Tensor:
        seen.append((len(ids), len(batch.layout.lengths)))
        return run(self, ids, batch)

    monkeypatch.setattr(PackedGraphs, "run", spy)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"step_tokens": 40, "step_requests": 3}, {"block_size": 4}])
def test_they_equal_ordinary_steps(tiny_model: Path, packed: list[tuple[int, int]], options: dict[str, Any]) -> None:
    """Whole prompts, prompts in parts beside decodes, and behind prefixes that are in the cache."""
    want = tokens(make_loop(tiny_model), REQUESTS)
    loop = static_loop(tiny_model, [1, 4, 12], **options)
    assert tokens(loop, REQUESTS) == want
    again = [GenerationRequest(r.id + 100, r.prompt_ids, r.sampling, r.media) for r in REQUESTS]
    assert {i - 100: found for i, found in tokens(loop, again).items()} == want
    assert any(num_tokens not in SIZES for num_tokens, _ in packed)
    assert any(1 < num_sequences < num_tokens for num_tokens, num_sequences in packed)
    assert loop.stats().prefix_hits > 0


@pytest.mark.slow
def test_hidden_states_are_those_of_ordinary_steps(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_hidden_states(tiny_model, "cpu", monkeypatch)


@pytest.mark.gpu
def test_captured_hidden_states(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_hidden_states(tiny_model, "cuda", monkeypatch)


def check_hidden_states(tiny_model: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, of every size, prompts alone and beside decodes."""
    seen: list[tuple[int, float]] = []
    run = PackedGraphs.run

    def both(self: PackedGraphs, ids: Tensor, batch: Batch) -> Tensor:
        want = self._model(self._model.embed(ids), batch, self._caches).clone()
        got = run(self, ids, batch)
        seen.append((len(ids), relative_l2(got, want)))
        return got

    monkeypatch.setattr(PackedGraphs, "run", both)
    prompts = [text_request(i, length) for i, length in enumerate([9, 16, 30, 50, 100, 150, 250], start=1)]
    loop = static_loop(tiny_model, [1, 12], device=device, dtype="float32")
    for request in prompts:
        tokens(loop, [request])
    tokens(loop, [text_request(100 + i, 30, 12 + i) for i in range(12)])
    taken = {next(size for size in SIZES if size >= num_tokens) for num_tokens, _ in seen}
    assert taken == set(SIZES)
    assert max(error for _, error in seen) < 1e-5


def batch_of(news: list[int], lengths: list[int], **gates: Tensor) -> Batch:
    starts = [sum(news[:i]) for i in range(len(news) + 1)]
    num_decodes = sum(new == 1 for new in news)
    layout = PagedLayout(
        torch.zeros(len(news), 1, dtype=torch.int64), torch.tensor(lengths), num_decodes, tuple(starts), tuple(lengths)
    )
    empty = torch.zeros(starts[-1], dtype=torch.int64)
    return Batch(empty.expand(3, -1), empty, layout, **gates)


def test_each_row_attends_to_what_came_before_it() -> None:
    rows = PackedGraphs._rows(batch_of([1, 3, 2], [9, 3, 7]).layout, 8)
    assert rows.tolist() == [[0, 1, 1, 1, 2, 2, 1, 1], [9, 1, 2, 3, 6, 7, 1, 1]]


def test_what_is_taken(tiny_model: Path) -> None:
    loaded = load_engine(EngineConfig(str(tiny_model), device="cpu", num_threads=1, kv_tokens=4096))
    _, graphs = loaded.runner.make_graphs([1], VARIANTS[DEFAULT])
    most = SIZES[-1]
    assert graphs.takes(batch_of([1, most - 1], [MOST_CONTEXT, 300]))
    assert graphs.takes(batch_of([1] * 64 + [8], [4000] * 64 + [8])), "decodes read their keys in any step"
    assert not graphs.takes(batch_of([1, most], [900, 300]))
    assert not graphs.takes(batch_of([1, 8], [MOST_CONTEXT + 1, 300])), "one program would walk through a long context"
    assert not graphs.takes(batch_of([most], [MOST_KEYS // most + 1])), "each row would read a long context"
    assert not graphs.takes(batch_of([8], [8], image_rows=torch.tensor([2])))
    assert not graphs.takes(batch_of([8], [8], audio_rows=torch.tensor([2])))
