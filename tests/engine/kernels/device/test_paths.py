"""A whole model whose decode steps take the newer ways says what it says by the measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.kernels.paths import VARIANTS
from engine.runtime.build import load_engine
from tests.engine.kernels.device.conftest import ON_GPU
from tests.engine.runtime.helpers import text_request, tokens

# The interpreter takes seconds a step: it sees a single token alone, which takes all the newer ways.
ALONE = [text_request(1, 3, 30 if ON_GPU else 3)]
TOGETHER = [text_request(2, 19, 40), text_request(3, 1, 25, temperature=1.0, seed=3)] if ON_GPU else []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from engine.tiny import ensure_snapshot

    return ensure_snapshot(tmp_path_factory.mktemp("cache"))


def answers(model: Path, paths: str) -> dict[int, list[int]]:
    """Tokens of a request alone, then of others together, on one set of counters."""
    torch.set_default_device(None)
    device = "cuda" if ON_GPU else "cpu"
    config = EngineConfig(str(model), device=device, num_threads=1, kv_tokens=1024, max_model_len=256, eager=True)
    loaded = load_engine(config)
    loaded.runner.prepare_graphs([1, 3], VARIANTS[paths])
    loop = loaded.make_loop()
    return tokens(loop, ALONE) | tokens(loop, TOGETHER)


def test_newer_ways_say_the_same(model: Path) -> None:
    assert answers(model, "all") == answers(model, "measured")
