"""Runs of `ming-eval accuracy` against a server with a known score, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from ming_eval.cli import app
from tests.ming_eval.evals.builders import MCQ_SUITE, mcq_rows, write_rows, write_suite
from tests.ming_eval.evals.scripted import Act, Say, ScriptedServer

ROOT = Path(__file__).parents[3]
GOLD = "ABCD"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def accuracy(folder: Path, server: ScriptedServer, *words: str, name: str = "s") -> Result:
    """Run the fruit suite of `folder`; the first word may be another suite."""
    return invoke("accuracy", "--out", str(folder / "results"), "--backend", f"{name}={server.url}", *words)


def prepare(folder: Path, count: int = 20, *, shelves: int = 2, suite: str = MCQ_SUITE) -> list[str]:
    """A suite and its data; the words that name them."""
    write_suite(folder / "fruit", suite)
    data = write_rows(folder / "data.jsonl", mcq_rows(count, shelves=shelves))
    return [str(folder / "fruit"), "--data", str(data)]


def all_right(count: int = 20) -> Mapping[str, Sequence[Act]]:
    return {f"question {i}": (Say(GOLD[i % 4]),) for i in range(count)}


def some_wrong(count: int = 20) -> Mapping[str, Sequence[Act]]:
    """Every fifth reply is wrong."""
    return {f"question {i}": (Say(GOLD[(i + (i % 5 == 0)) % 4]),) for i in range(count)}


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "results").iterdir()
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def num_answers(folder: Path) -> int:
    """Lines that are in `responses.jsonl` so far."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("results/*/responses.jsonl"))
