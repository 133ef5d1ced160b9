"""Who the engine says it is, installed or not, wherever it is started."""

from __future__ import annotations

import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from engine import source

ROOT = Path(__file__).parents[2]


def test_a_tree_that_was_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert source.engine_version() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_commit_is_that_of_the_source_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]
    want = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    monkeypatch.chdir(tmp_path)
    assert source.source_commit() == want
    installed = tmp_path / "venv" / "engine" / "source.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "somebody else's"]):
        subprocess.run([*git, *words], check=True)
    assert source.source_commit(installed) is None, "nothing of that repository"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source.source_commit() is None, "without git nothing is known"


def test_a_recorded_command_names_no_place_of_one_machine() -> None:
    typed = [
        "--json",
        "/a/b/gpu.json",
        "--out=/a/c",
        "--paths",
        "lean but heads",
        "--model",
        "here/model",
        "--batches",
        "1,32",
    ]
    want = "python -m engine.bench --json gpu.json --out=c --paths 'lean but heads' --model here/model --batches 1,32"
    assert source.command_line("engine.bench", typed) == want
