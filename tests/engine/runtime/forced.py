"""`python -m tests.engine.runtime.forced CONFIG RANK STORE OUT [EXPERTS]`: logits of fixed tokens, fed one a step.

CONFIG holds the fields of `EngineConfig` as a JSON object, STORE is a file at which the ranks meet. Every rank runs
this and feeds the same tokens whatever the logits say. Rank 0 writes OUT: for each sequence `NAME.logits` [T + n, V]
and `NAME.LAYER`, the experts that the gates chose. EXPERTS is such a file of another run, whose experts are taken
instead: in bfloat16 two sums of other order are enough to turn a near-tie round, which is no error of either.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.child import leave
from engine.config import EngineConfig
from engine.goldens.bfloat16 import Case, relative_l2, serve
from engine.goldens.observe import observed
from engine.goldens.session import GoldenEngine
from engine.runtime.build import load_engine
from engine.runtime.ranks import join

ROOT = Path(__file__).parents[3]
LENGTHS = {"short": (9, 24), "long": (300, 8)}  # prompt, forced; more than 256 rows are summed another way on GPUs


def main() -> int:
    """One rank."""
    fields, rank, store, out, *given = sys.argv[1:]
    config = EngineConfig(**json.loads(fields))
    loaded = load_engine(config) if config.tp == 1 else join(config, int(rank), store)
    engine = GoldenEngine(loaded, loaded.make_loop())
    experts = load_file(given[0]) if given else {}
    found: dict[str, Tensor] = {}
    for name, counts in LENGTHS.items():
        forced = {int(key.removeprefix(name + ".")): x for key, x in experts.items() if _is_choice(key, name)}
        with observed(engine.model) as seen:
            found[f"{name}.logits"] = serve(engine, _sequence(name, *counts), forced)
        chosen = {key: x for key, x in seen.tensors().items() if key.endswith("topk_ids")}
        found |= {f"{name}.{key.split('.')[1]}": x for key, x in chosen.items()}
    if rank == "0":
        save_file({name: x.cpu().contiguous() for name, x in found.items()}, out)
    return 0


def _is_choice(key: str, name: str) -> bool:
    return key.startswith(name + ".") and key != f"{name}.logits"


def _sequence(name: str, num_prompt: int, num_forced: int) -> Case:
    ids = torch.tensor(random.Random(name).choices(range(1900), k=num_prompt + num_forced))
    positions = torch.arange(len(ids)).expand(3, -1).contiguous()
    return Case(name, ids, num_prompt, None, (), positions, None, None, {}, torch.empty(0))


def run_forced(out: Path, experts: Path | None = None, **config: Any) -> dict[str, Tensor]:
    """What the ranks of `config` write to `out`; steps are eager, so that nothing but the ranks differs."""
    config = {"max_model_len": 512, "kv_tokens": 1024, "eager": True} | config
    store = out.with_suffix(".store")
    command = [sys.executable, "-m", "tests.engine.runtime.forced", json.dumps(config)]
    files = [str(path) for path in (store, out, experts) if path is not None]
    ranks = [
        subprocess.Popen([*command, str(rank), *files], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(config["tp"])
    ]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), "\n".join(text[-2000:] for text in said)
    return load_file(out)


def difference_of_ranks(folder: Path, *sizes: int, **config: Any) -> dict[int, list[float]]:
    """How far the logits of so many ranks are from those of one, by size, for each step: relative L2."""
    alone = folder / "1.safetensors"
    one = run_forced(alone, tp=1, **config)
    names = [key for key in one if key.endswith(".logits")]
    found = {}
    for size in sizes:
        several = run_forced(folder / f"{size}.safetensors", alone, tp=size, **config)
        assert {key: x.shape for key, x in one.items()} == {key: x.shape for key, x in several.items()}
        rows = [pair for key in names for pair in zip(several[key], one[key], strict=True)]
        found[size] = [relative_l2(got, want) for got, want in rows]
    return found


if __name__ == "__main__":
    leave(main())
