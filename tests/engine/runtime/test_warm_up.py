"""Steps before the first request leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig
from engine.core.request import Step
from engine.errors import ConfigError
from engine.kernels.paths import DEFAULT, VARIANTS
from engine.runtime.build import load_engine
from engine.runtime.model_runner import Launched
from engine.runtime.packed_graphs import SIZES
from engine.runtime.warm_up import BESIDE, DECODES, PROMPTS, WarmStep, fitting, rehearse, warm_up
from tests.engine.runtime.helpers import text_request, tokens


def test_every_class_of_sizes_is_run_where_there_is_room() -> None:
    steps = list(fitting(1 << 16, 16, 8192, 8192, 256))
    assert [step.prompts for step in steps[: len(PROMPTS)]] == [(n,) for n in PROMPTS]
    assert [len(step.prompts) - 1 for step in steps if step.prompts[0] == BESIDE] == list(DECODES)
    assert any(step.sampling.top_p < 1 for step in steps)


@pytest.mark.parametrize(
    ("limits", "longest", "most"),
    [
        ((1 << 16, 16, 2048, 8192, 256), 1500, 97),
        ((1 << 16, 16, 8192, 512, 256), 200, 97),
        ((128, 16, 8192, 8192, 4), 1500, 4),
        ((64, 1024, 8192, 8192, 256), 4000, 49),  # a row of one token takes a whole block
    ],
)
def test_steps_keep_within_what_the_engine_can_do(
    limits: tuple[int, int, int, int, int], longest: int, most: int
) -> None:
    steps = list(fitting(*limits))
    assert max(step.num_tokens for step in steps) == longest
    assert max(len(step.prompts) for step in steps) == most


def test_an_engine_that_was_warmed_up_is_as_new(tiny_model: Path) -> None:
    config = EngineConfig(str(tiny_model), device="cpu", num_threads=1, kv_tokens=8192, max_model_len=512)
    requests = [text_request(i, length) for i, length in enumerate([1, 17, 90], start=1)]
    new = tokens(load_engine(config).make_loop(), requests)
    loaded = load_engine(config)
    free = len(loaded.runner._free_places)
    warm_up(loaded.runner, list(fitting(loaded.info.num_blocks, 16, 2048, 512, 256)))
    assert not loaded.runner.states
    assert sorted(loaded.runner._free_places) == list(range(free))
    assert tokens(loaded.make_loop(), requests) == new


def test_a_rehearsal_runs_a_layer_of_each_kind_and_leaves_nothing(tiny_model: Path) -> None:
    config = EngineConfig(str(tiny_model), device="cpu", num_threads=1, kv_tokens=8192, max_model_len=512)
    requests = [text_request(i, length) for i, length in enumerate([1, 17, 90], start=1)]
    new = tokens(load_engine(config).make_loop(), requests)
    loaded = load_engine(config)
    runner, free, ran = loaded.runner, len(loaded.runner._free_places), []
    for i, layer in enumerate(runner.model.model.layers):
        layer.register_forward_hook(lambda *_, i=i: ran.append(i))
    rehearse(runner, [1, 4], VARIANTS[DEFAULT], [WarmStep((24,)), WarmStep((40, 1, 1))], 1)
    assert ran == [0, 1] * (2 + len(SIZES) + 2)  # a dense layer, one with experts; captured sizes, two steps
    assert not runner.states
    assert sorted(runner._free_places) == list(range(free))
    assert tokens(loaded.make_loop(), requests) == new
    assert set(ran) == set(range(len(runner.model.model.layers)))


@pytest.mark.parametrize("most", [1, 3])
def test_no_step_has_more_requests_than_the_engine_has_places(tiny_model: Path, most: int) -> None:
    config = EngineConfig(
        str(tiny_model), device="cpu", num_threads=1, kv_tokens=512, max_model_len=64, step_requests=most
    )
    loaded = load_engine(config)
    warm_up(loaded.runner, list(fitting(loaded.info.num_blocks, 16, 64, 64, most)))
    assert len(loaded.runner._free_places) == most


def test_a_step_without_memory_names_the_options(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(str(tiny_model), device="cpu", num_threads=1, kv_tokens=512, max_model_len=64)
    loaded = load_engine(config)

    def full(_step: Step) -> Launched:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.runner, "launch", full)
    with pytest.raises(ConfigError, match="a step of 8 tokens: lower --memory-fraction, --kv-tokens or --step-tokens"):
        warm_up(loaded.runner, [WarmStep((8,))])
