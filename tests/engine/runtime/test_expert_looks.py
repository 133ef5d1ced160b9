"""Distinct experts of decode steps while serving: streams that say the same share them, others do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from torch import Tensor

from engine.bench.offline import Offline
from engine.config import EngineConfig
from engine.core.request import GenerationRequest
from engine.layers.moe import SparseMoE
from engine.runtime.build import load_engine
from engine.runtime.expert_looks import EVERY, ExpertLooks
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


@pytest.mark.parametrize("sizes", [[], [1, 4]], ids=["ordinary", "static"])
def test_a_benchmark_counts_every_decode_step_of_a_run_and_no_other(tiny_model: Path, sizes: list[int]) -> None:
    """Against the routers themselves: 3 streams, 2 * EVERY tokens each, the first out of the prompts' step."""
    loaded = load_engine(EngineConfig(model=str(tiny_model), device="cpu", num_threads=1, kv_tokens=4096))
    if sizes:
        loaded.runner.prepare_graphs(sizes)
    routed: list[int] = []

    def count(_router: object, _args: object, out: tuple[Tensor, Tensor]) -> None:
        if len(out[0]) in (3, 4):  # a decode step, padded or not
            routed.append(len(set(out[0][:3].flatten().tolist())))

    routers = [x.mlp.router for x in loaded.runner.model.model.layers if isinstance(x.mlp, SparseMoE)]
    for router in routers:
        router.register_forward_hook(count)
    bench = Offline(loaded, loaded.make_loop(), repeats=1)
    look = bench.look(3, 20, 2 * EVERY)
    assert len(routed) == len(routers) * (2 * EVERY - 1)
    assert look.distinct_experts == pytest.approx(fmean(routed))
    assert [len(said) for said in look.tokens] == 3 * [2 * EVERY]
    assert bench.look(3, 20, 1).distinct_experts is None, "prompts alone are no decode steps"


def test_prompts_are_not_watched(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor steps that they share with streams."""
    watched: list[int] = []
    enter = ExpertLooks.watched

    @contextmanager
    def noted(looks: ExpertLooks) -> Iterator[list[Tensor]]:
        with enter(looks) as chosen:
            yield chosen
        watched.append(len(chosen[0]))

    monkeypatch.setattr(ExpertLooks, "watched", noted)
    loop = load_engine(EngineConfig(model=str(tiny_model), device="cpu", num_threads=1, step_tokens=16)).make_loop()
    run(loop, [text_request(1, 40, max_tokens=3), text_request(2, 30, max_tokens=3)])
    assert watched
    assert max(watched) <= 2
