"""Distinct experts of decode steps while serving: streams that say the same share them, others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.core.request import GenerationRequest
from engine.runtime.build import load_engine
from engine.runtime.expert_looks import EVERY
from tests.engine.runtime.helpers import run, text_request

pytestmark = pytest.mark.slow
TOP_K, NUM_EXPERTS = 4, 16  # of the tiny model


def looks(model: Path, requests: Sequence[GenerationRequest], sizes: Sequence[int]) -> tuple[int, float, float]:
    """Steps looked at, distinct experts and those of uniform routing, in each; `sizes` of static buffers, if any."""
    loaded = load_engine(EngineConfig(model=str(model), device="cpu", num_threads=1, kv_tokens=4096))
    if sizes:
        loaded.runner.prepare_graphs(sizes)
    loop = loaded.make_loop()
    run(loop, requests)
    stats = loop.stats()
    return stats.expert_looks, stats.distinct_experts / stats.expert_looks, stats.uniform_experts / stats.expert_looks


@pytest.mark.parametrize("sizes", [[], [1, 4]], ids=["ordinary", "static"])
def test_streams_that_say_the_same_share_experts(tiny_model: Path, sizes: list[int]) -> None:
    """Three streams, which static buffers pad to four. A step of one touches its 4 experts, of equal ones no more."""
    one = text_request(1, 20, max_tokens=2 * EVERY)
    assert looks(tiny_model, [one], sizes) == (2, TOP_K, TOP_K)
    equal = [replace(one, id=i) for i in range(3)]
    uniform = NUM_EXPERTS * (1 - (1 - TOP_K / NUM_EXPERTS) ** 3)
    assert looks(tiny_model, equal, sizes) == (2, TOP_K, pytest.approx(uniform))
    count, distinct, _ = looks(tiny_model, [text_request(i, 20, max_tokens=2 * EVERY) for i in range(3)], sizes)
    assert count == 2
    assert TOP_K + 1 < distinct <= 3 * TOP_K
