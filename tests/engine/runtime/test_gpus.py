"""The engine on GPUs: captured steps, many requests, several ranks. Each needs devices and is recorded where it ran."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.goldens.__main__ import main as run_goldens
from engine.kernels.paths import VARIANTS
from engine.released import CONFIG
from engine.runtime.build import load_engine
from tests.engine.runtime.forced import difference_of_ranks
from tests.engine.runtime.helpers import make_loop, text_request, tokens
from tests.engine.runtime.test_decode_graphs import REQUESTS

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def on_ranks(model: Path, tp: int, **options: Any) -> dict[int, list[int]]:
    """Greedy tokens in float32 from `tp` GPUs; a process of its own, since ranks meet once in a process's life."""
    fields = {"device": "cuda", "dtype": "float32", "max_model_len": 512, "kv_tokens": 8192, "step_requests": 16}
    config = {"model": str(model), "tp": tp} | fields | options
    command = [sys.executable, "-m", "tests.engine.runtime.greedy", json.dumps(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {int(request_id): found for request_id, found in json.loads(done.stdout).items()}


@pytest.mark.gpu
def test_a_thousand_mixed_requests_with_aborts_leave_no_block_behind(tiny_model: Path) -> None:
    """Every request ends once."""
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


@pytest.mark.gpu
@pytest.mark.parametrize("paths", VARIANTS)
def test_graphs_equal_eager_steps(paths: str, tiny_model: Path) -> None:
    """By every way of a decode step's kernels, the requests together and then one alone."""
    options = {"device": "cuda", "dtype": "float32", "max_model_len": 512}
    eager = make_loop(tiny_model, **options, eager=True)
    graphs = make_loop(tiny_model, **options, decode_paths=paths)
    assert tokens(graphs, REQUESTS) == tokens(eager, REQUESTS)
    alone = [text_request(50, 30, max_tokens=60)]
    assert tokens(graphs, alone) == tokens(eager, alone)


@pytest.mark.gpu
def test_the_cpu_says_the_same(tiny_model: Path) -> None:
    """Greedy rows only: drawn ones meet on a border where the last bit decides."""
    greedy = [request for request in REQUESTS if request.sampling.temperature == 0.0]
    options = {"device": "cuda", "dtype": "float32", "max_model_len": 512}
    assert tokens(make_loop(tiny_model, **options), greedy) == tokens(make_loop(tiny_model), greedy)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_released_outputs(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels, towers and cache on a GPU against the released code; in bfloat16 beside plain PyTorch."""
    goldens = Path(__file__).parents[2] / "goldens" / "understanding"
    assert run_goldens([str(goldens), "--device", "cuda", "--dtype", dtype]) == 0, capsys.readouterr().out


@pytest.mark.multi_gpu
def test_two_ranks_equal_one(tiny_model: Path) -> None:
    """Through the memory that GPUs share, with kernels that start early too, and through NCCL."""
    alone = on_ranks(tiny_model, 1)
    assert on_ranks(tiny_model, 2) == alone
    assert on_ranks(tiny_model, 2, decode_paths="all") == alone
    assert on_ranks(tiny_model, 2, peer_sums=False) == alone


@pytest.fixture
def full_width(tmp_path: Path) -> Path:
    """Three layers of the released geometry, to be drawn."""
    tree = CONFIG | {"llm_config": CONFIG["llm_config"] | {"num_hidden_layers": 3}}
    tree = {key: value for key, value in tree.items() if key not in ("vision_config", "audio_config")}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


@pytest.mark.multi_gpu
def test_two_ranks_equal_one_at_full_width(full_width: Path) -> None:
    assert on_ranks(full_width, 2, load_format="generated") == on_ranks(full_width, 1, load_format="generated")


@pytest.mark.multi_gpu
@pytest.mark.parametrize(
    "sums",
    [{"decode_paths": "plain"}, {"decode_paths": "all"}, {"peer_sums": False}],
    ids=["flags", "words", "nccl"],
)
def test_bfloat16_logits_of_two_ranks_at_full_width(full_width: Path, tmp_path: Path, sums: dict[str, Any]) -> None:
    """At forced tokens, with one rank's choice of experts, every step is within 2e-2 relative L2."""
    options = {"device": "cuda", "dtype": "bfloat16", "load_format": "generated"} | sums
    (errors,) = difference_of_ranks(tmp_path, 2, model=str(full_width), **options).values()
    assert max(errors) < 2e-2, sorted(errors)[-5:]
