"""Which engine this is: its version, and the commit that a figure was measured at."""

from __future__ import annotations

import subprocess
import tomllib
from importlib import metadata
from pathlib import Path


def engine_version() -> str:
    """Of the installed package; of `pyproject.toml` beside a source tree that was not installed."""
    try:
        return metadata.version("ming-eval")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"])


def source_commit(file: Path = Path(__file__)) -> str | None:
    """The commit of the working tree that `file` is tracked in, short; None where it is in none or git is missing."""
    if _git(file, "ls-files", file.name) is None:
        return None  # an installed package inside somebody else's repository
    return _git(file, "rev-parse", "--short", "HEAD")


def _git(file: Path, *words: str) -> str | None:
    """What git says in the folder of `file`, if anything."""
    try:
        done = subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
