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


def source_commit() -> str | None:
    """The commit of the source tree this runs from, short; None where git does not know it."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
