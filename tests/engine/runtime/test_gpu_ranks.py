"""Ranks on GPUs say what one says. Starts take most of the time, so several run at once and serve several tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engine.runtime.drawn import full_width
from tests.engine.runtime.forced import difference_of_ranks

pytestmark = pytest.mark.multi_gpu

ROOT = Path(__file__).parents[3]
AT_ONCE = 4  # starts: they import and compile on their own cores, and take turns on the GPUs
SECONDS = 150
# Through the memory that GPUs share, with kernels that start early and words that are pushed, or with flags, or NCCL.
SUMS: dict[str, dict[str, Any]] = {
    "served": {},
    "flags": {"decode_paths": "plain"},
    "nccl": {"peer_sums": False},
}

Found = dict[str, list[Any]]  # tokens by request, or errors by way


def greedy(model: Path, tp: int, **options: Any) -> Found:
    """Tokens in float32 from `tp` GPUs; a process of its own, since ranks meet once in a process's life."""
    fields = {"device": "cuda", "dtype": "float32", "max_model_len": 512, "kv_tokens": 2048, "step_requests": 5}
    config = {"model": str(model), "tp": tp} | fields | options
    command = [sys.executable, "-m", "tests.engine.runtime.greedy", json.dumps(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: Found = json.loads(done.stdout)
    return found


def of_bfloat16(model: Path, folder: Path, sums: dict[str, Any]) -> Found:
    """Errors of forced tokens' rows against one rank that takes the same experts, for each kind of step."""
    config = {"model": str(model), "device": "cuda", "dtype": "bfloat16", "load_format": "generated"}
    (found,) = difference_of_ranks(folder, {"tp": 2} | sums, paths=(None, "plain", "lean"), **config)
    return {str(path): errors for path, errors in found.items()}


@pytest.fixture(scope="module")
def starts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Found]]]:
    """All that is compared, under way at once."""
    wide = full_width(tmp_path_factory.mktemp("wide"), num_layers=3)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = {
            f"bfloat16 {name}": pool.submit(of_bfloat16, wide, tmp_path_factory.mktemp("logits"), SUMS[name])
            for name in ("served", "nccl")
        }
        found |= {"one": pool.submit(greedy, tiny_model, 1)}
        found |= {name: pool.submit(greedy, tiny_model, 2, **options) for name, options in SUMS.items()}
        found |= {f"wide {tp}": pool.submit(greedy, wide, tp, load_format="generated") for tp in (1, 2)}
        yield found
        for future in found.values():
            future.cancel()


@pytest.mark.parametrize("sums", SUMS)
def test_two_ranks_equal_one(sums: str, starts: dict[str, Future[Found]]) -> None:
    """Greedy, captured as served: another order of sums moves a float32 logit by its last bits."""
    assert starts[sums].result() == starts["one"].result()


def test_two_ranks_equal_one_at_full_width(starts: dict[str, Future[Found]]) -> None:
    assert starts["wide 2"].result() == starts["wide 1"].result()


@pytest.mark.parametrize("sums", ["served", "nccl"])
def test_bfloat16_logits_of_two_ranks_at_full_width(sums: str, starts: dict[str, Future[Found]]) -> None:
    """Every step is within 2e-2 relative L2: eager steps, and captured ones by flags ("plain") and words ("lean")."""
    found = starts[f"bfloat16 {sums}"].result()
    assert found.keys() == {"None", "plain", "lean"}
    for path, errors in found.items():
        assert all(error < 2e-2 for error in errors), (path, sorted(errors)[-5:])
        assert max(errors) > 0
