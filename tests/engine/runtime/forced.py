"""`python -m tests.engine.runtime.forced CONFIG RANK STORE RUNS`: logits of fixed tokens, fed one a step.

CONFIG holds the fields of `EngineConfig` as a JSON object, STORE is a file at which the ranks meet, RUNS a JSON list of
[PATHS, OUT, EXPERTS]. Every rank runs this, loads once and feeds the same tokens whatever the logits say, for each run
anew: decode steps on static buffers by PATHS, captured on a GPU as they are served, or as ordinary eager steps where
that is null. Rank 0 writes OUT: for each group of sequences `NAME.logits` [rows, V] and `NAME.experts` [layers, tokens,
k], what the gates chose, ascending. EXPERTS, if not null, is such a file of another run, whose experts are taken
instead (eager steps only): in bfloat16 two sums of other order are enough to turn a near-tie round, which is no error
of either.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.child import leave
from engine.config import EngineConfig
from engine.goldens.bfloat16 import forced_experts, relative_l2
from engine.goldens.session import GoldenEngine
from engine.kernels.paged_attention import PagedLayout
from engine.kernels.paths import VARIANTS
from engine.layers.batch import Batch
from engine.layers.moe import SparseMoE
from engine.runtime.build import load_engine
from engine.runtime.decode_graphs import DecodeRow
from engine.runtime.ranks import join

ROOT = Path(__file__).parents[3]
SIZES = [1, 4, 16, 72]  # of the static steps: three groups are padded
LIMITS = {"max_model_len": 512, "kv_tokens": 2048, "step_requests": SIZES[-1]}
SECONDS = {"cuda": 150, "cpu": 300}  # for the ranks of a start; on GPUs a hanging one takes from others


@dataclass(frozen=True)
class Group:
    """Sequences that decode together: so many, of a prompt and `num_forced` more tokens each."""

    name: str
    batch: int
    num_prompt: int
    num_forced: int

    @property
    def ids(self) -> Tensor:
        """Random tokens [B, prompt + forced], for every run the same."""
        chosen = random.Random(self.name).choices(range(1900), k=self.batch * (self.num_prompt + self.num_forced))
        return torch.tensor(chosen).view(self.batch, -1)

    @property
    def rows_of_steps(self) -> list[int]:
        """Each prompt is a step, then a token of every sequence."""
        return [self.num_prompt] * self.batch + [self.batch] * self.num_forced


# One token takes other kernels or tiles than several, those other ones than a dozen, and more than 64 of them are
# grouped by expert; more than 256 rows are summed another way over ranks.
GROUPS = [
    Group("short", 1, 9, 24),
    Group("several", 3, 9, 6),
    Group("dozen", 12, 2, 3),
    Group("many", 66, 2, 3),
    Group("long", 1, 300, 8),
]
NUM_STEPS = 1 + 24 + 3 + 6 + 12 + 3 + 66 + 3 + 1 + 8


def main() -> int:
    """One rank."""
    fields, rank, store, runs = sys.argv[1:]
    config = EngineConfig(**json.loads(fields))
    loaded = load_engine(config) if config.tp == 1 else join(config, int(rank), store)
    engine = GoldenEngine(loaded, loaded.make_loop())
    for paths, out, given in json.loads(runs):
        found = forced_logits(engine, paths, load_file(given) if given else None)
        if rank == "0":
            save_file(found, out)
    return 0


def forced_logits(
    engine: GoldenEngine, paths: str | None, experts: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What the module's docstring says of OUT, on the CPU; `experts` are the tensors of EXPERTS."""
    if paths is not None:
        engine.loaded.runner.prepare_graphs(SIZES, VARIANTS[paths])
    found = {}
    for group in GROUPS:
        given = None if experts is None else experts[f"{group.name}.experts"]
        served = _Served(engine, group, paths is not None, given)
        with torch.inference_mode():
            logits = served.run()
        found |= {f"{group.name}.logits": logits, f"{group.name}.experts": torch.cat(served.chosen, dim=1)}
    return {name: x.cpu().contiguous() for name, x in found.items()}


class _Served:
    """One group on its way through the paged cache: each prompt alone, then a token of all sequences a step."""

    def __init__(self, engine: GoldenEngine, group: Group, static: bool, experts: Tensor | None) -> None:
        self._engine, self._group, self._static, self._experts = engine, group, static, experts
        self._layers = [i for i, layer in enumerate(engine.model.model.layers) if isinstance(layer.mlp, SparseMoE)]
        per_sequence = -(-group.ids.shape[1] // engine.block_size)
        self._tables = torch.arange(group.batch * per_sequence).view(group.batch, -1)
        self._num_tokens = 0
        self.chosen: list[Tensor] = []  # [layers, tokens, k] of each step

    def run(self) -> Tensor:
        """Logits of every token: [rows, V], step after step."""
        ids, start = self._group.ids, self._group.num_prompt
        places = self._engine.loaded.runner.places.tables
        places[: len(ids), : self._tables.shape[1]] = self._tables.to(places)
        prompts = [self._eager(ids[b : b + 1, :start], 0, b) for b in range(len(ids))]
        step = self._on_static_buffers if self._static else self._eager
        return torch.cat(prompts + [step(ids[:, at : at + 1], at) for at in range(start, ids.shape[1])])

    def _eager(self, ids: Tensor, start: int, first: int = 0) -> Tensor:
        """Tokens [B, T] at `start` of sequences from `first` on, either B or T one."""
        engine, on, (batch, count) = self._engine, self._engine.device, ids.shape
        end, tables = start + count, self._tables[first : first + batch]
        slots = torch.cat([self._slots(tables[b], start, end) for b in range(batch)])
        bounds = tuple(range(batch + 1)) if count == 1 else (0, count)
        lengths = torch.full((batch,), end, device=on)
        layout = PagedLayout(tables.to(on), lengths, batch if count == 1 else 0, bounds, (end,) * batch)
        positions = torch.arange(start, end).repeat(batch).expand(3, -1).contiguous()
        embeddings = engine.model.embed(ids.flatten().to(on))
        with (
            forced_experts(engine, self._given(ids.numel())),
            engine.loaded.runner.expert_looks.watched() as seen,
        ):
            hidden = engine.model(embeddings, Batch(positions.to(on), slots.to(on), layout), engine.caches)
        self._note(seen, ids.numel())
        return engine.model.logits(hidden).float().cpu()

    def _on_static_buffers(self, ids: Tensor, at: int) -> Tensor:
        """Tokens [B, 1] at `at`, as the runner does it."""
        graphs = self._engine.loaded.runner.graphs
        assert graphs is not None
        rows = [
            DecodeRow(b, int(token), at, int(self._slots(self._tables[b], at, at + 1)), at + 1, -1, 0, 0, 0, 0.0)
            for b, token in enumerate(ids[:, 0])
        ]
        logits = graphs.run(rows, draw=False)[0].cpu()  # waits: the next step writes over it
        self._note(graphs.chosen(len(rows)), len(rows))
        return logits.clone()

    def _slots(self, table: Tensor, start: int, end: int) -> Tensor:
        at, size = torch.arange(start, end), self._engine.block_size
        return table[at // size] * size + at % size

    def _given(self, count: int) -> dict[int, Tensor]:
        if self._experts is None:
            return {}
        taken = self._experts[:, self._num_tokens : self._num_tokens + count]
        return dict(zip(self._layers, taken, strict=True))

    def _note(self, seen: Sequence[Tensor], count: int) -> None:
        self.chosen.append(torch.stack([ids[:count].sort(dim=1).values for ids in seen]).cpu())
        self._num_tokens += count


def run_forced(out: Path, runs: Sequence[tuple[str | None, Path, Path | None]], **config: Any) -> None:
    """Start the ranks of `config`, which write the files of `runs`. `out` names what they need beside."""
    config = LIMITS | {"eager": True} | config  # what is captured, the runs say
    written = [[paths, str(path), None if given is None else str(given)] for paths, path, given in runs]
    command = [sys.executable, "-m", "tests.engine.runtime.forced", json.dumps(config)]
    rest = [str(out.with_suffix(".store")), json.dumps(written)]
    ranks = [
        subprocess.Popen([*command, str(rank), *rest], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(config["tp"])
    ]
    try:
        said = [rank.communicate(timeout=SECONDS[config["device"]])[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), "\n".join(text[-2000:] for text in said)


def difference_of_ranks(
    folder: Path, *served: dict[str, Any], paths: Sequence[str | None], **config: Any
) -> list[dict[str | None, list[float]]]:
    """How far logits by each of `paths` are from eager ones of one rank with the same experts: by step, relative L2.

    For each of `served`, which holds what its start has beside `config`. The single rank starts once for all.
    """
    files = [{path: folder / f"{i}-{path}.safetensors" for path in paths} for i in range(len(served))]
    for i, (fields, found) in enumerate(zip(served, files, strict=True)):
        run_forced(folder / f"ranks-{i}", [(path, file, None) for path, file in found.items()], **config, **fields)
    everything = [file for found in files for file in found.values()]
    run_forced(folder / "alone", [(None, alone_of(file), file) for file in everything], tp=1, **config)
    return [
        {path: step_errors(load_file(file), load_file(alone_of(file))) for path, file in found.items()}
        for found in files
    ]


def alone_of(file: Path) -> Path:
    """Where one rank says what it makes of the experts in `file`."""
    return file.with_suffix(".alone")


def step_errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> list[float]:
    """Relative L2 error of the logits of every step; one row of another token among 300 makes it 8e-2."""
    assert {key: x.shape for key, x in got.items()} == {key: x.shape for key, x in want.items()}
    found = []
    for group in GROUPS:
        ours, theirs = (x[f"{group.name}.logits"].split(group.rows_of_steps) for x in (got, want))
        found += [relative_l2(*step) for step in zip(ours, theirs, strict=True)]
    return found


if __name__ == "__main__":
    leave(main())
