"""The engine on one GPU: captured steps, many requests. Each needs a device and is recorded where it ran.

Starts are shared and capture few batch sizes: compiling kernels for each takes most of the time.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import EngineConfig, Quant
from engine.core.loop import EngineLoop
from engine.core.request import SchedulerLimits
from engine.goldens.session import GoldenEngine
from engine.kernels.paths import VARIANTS
from engine.runtime.build import LoadedEngine, load_engine
from engine.runtime.capture import Capturer
from engine.runtime.model_runner import ModelRunner
from tests.engine.runtime.drawn import full_width
from tests.engine.runtime.forced import LIMITS, forced_logits, step_errors
from tests.engine.runtime.helpers import make_loop, text_request, tokens
from tests.engine.runtime.test_decode_graphs import REQUESTS

pytestmark = pytest.mark.gpu

# Of one GPU and plain weights these launch what another way does: `push` sums over ranks, `split` is for fp8.
SAME_HERE = ("lean but split", "push", "split")
WAYS = [name for name in VARIANTS if name not in SAME_HERE]
NUM_LAYERS = 2  # at full width, the first of them dense
# Relative L2 of a step's logits. In float32 only the order of sums differs, 24 bits each: a wrong one shows at 1e-2 and
# above. In bfloat16 either side rounds some ten times a layer, by 2^-9 at most, as do the two parts of a row that the
# fp8 matrix unit gets; independent errors add in squares, and no step should be off by three times that.
FLOAT32, BFLOAT16 = 1e-4, 3 * 2**-9 * (10 * NUM_LAYERS) ** 0.5


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedEngine:
    """Float32 and eager; graphs are added where they are wanted."""
    options: dict[str, Any] = LIMITS | {"kv_tokens": 4096, "device": "cuda", "dtype": "float32"}
    return load_engine(EngineConfig(str(tiny_model), eager=True, **options))


@pytest.fixture(scope="module")
def on_cpu(tiny_model: Path) -> dict[int, list[int]]:
    """Greedy rows only: drawn ones meet on a border where the last bit decides."""
    return tokens(make_loop(tiny_model), [request for request in REQUESTS if request.sampling.temperature == 0.0])


def a_loop(loaded: LoadedEngine, paths: str | None = None) -> EngineLoop:
    """Over the same model and cache; with graphs by `paths`."""
    old, config = loaded.runner, loaded.config
    limits = SchedulerLimits(config.step_requests, config.step_requests, loaded.info.max_model_len)
    runner = ModelRunner(old.model, old.caches, old.encoder, old.device, limits, old.constraints)
    if paths is not None:
        runner.prepare_graphs([1, 4, len(REQUESTS) + 1], VARIANTS[paths])
    return replace(loaded, runner=runner).make_loop()


def test_a_thousand_mixed_requests_with_aborts_leave_no_block_behind(tiny_model: Path) -> None:
    """As it is served, every batch size captured. Every request ends once."""
    loop = load_engine(EngineConfig(str(tiny_model), device="cuda", kv_tokens=20_000, max_model_len=512)).make_loop()
    rng = random.Random(0)
    for i in range(1000):
        options = rng.choice([{}, {"temperature": 1.0, "seed": i}, {"temperature": 0.9, "top_p": 0.8}, {"logprobs": 1}])
        loop.submit(text_request(i, rng.randint(1, 60), rng.randint(1, 40), **options))
    ended: list[int] = []
    while loop.has_work:
        if rng.random() < 0.3:
            loop.abort(rng.randrange(1000))
        ended += [output.request_id for output in loop.run_once() if output.finish]
    assert sorted(ended) == list(range(1000))
    assert loop.stats().num_free_blocks == loop.stats().num_blocks


@pytest.mark.parametrize("paths", ["plain", "lean"])
def test_graphs_draw_the_tokens_of_eager_steps(
    paths: str, loaded: LoadedEngine, on_cpu: dict[int, list[int]], tiny_model: Path
) -> None:
    """In float32, where another order of sums moves a logit by its last bits: the requests together, then one alone.

    The CPU says the same.
    """
    eager, graphs = a_loop(loaded), a_loop(loaded, paths)
    found = tokens(graphs, REQUESTS)
    assert found == tokens(eager, REQUESTS)
    assert {request_id: found[request_id] for request_id in on_cpu} == on_cpu
    alone = [text_request(50, 30, max_tokens=60)]
    assert tokens(graphs, alone) == tokens(eager, alone)


@pytest.mark.parametrize("paths", WAYS)
def test_captured_logits(paths: str, loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every way of a decode step's kernels: bit for bit those of the same launches without a graph, and those of
    ordinary eager steps, which are summed in another order, but for rounding."""
    engine = GoldenEngine(loaded, loaded.make_loop())
    replayed = forced_logits(engine, paths)
    near(replayed, forced_logits(engine, None, replayed), FLOAT32)
    monkeypatch.setattr(Capturer, "capture", lambda _capturer, work: work)
    launched = forced_logits(engine, paths)
    assert [name for name, x in replayed.items() if not torch.equal(x, launched[name])] == []


@pytest.mark.parametrize("quant", ["none", "fp8"])
def test_captured_logits_at_full_width(quant: Quant, tmp_path: Path) -> None:
    """In bfloat16 by the ways that serve, packed weights through the fp8 matrix unit, against eager steps, which widen
    every weight: the same experts taken, two sums of other roundings."""
    options: dict[str, Any] = LIMITS | {"device": "cuda", "dtype": "bfloat16", "load_format": "generated"}
    model = full_width(tmp_path, NUM_LAYERS)
    loaded = load_engine(EngineConfig(str(model), eager=True, quant=quant, **options))
    engine = GoldenEngine(loaded, loaded.make_loop())
    served = forced_logits(engine, "lean")
    eager = forced_logits(engine, None, served)
    near(served, eager, BFLOAT16)
    assert max(step_errors(served, eager)) > 0  # they were other kernels


def near(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    """Every step; NaN is never near."""
    errors = step_errors(got, want)
    assert all(error < tolerance for error in errors), sorted(errors)[-5:]
