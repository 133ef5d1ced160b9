"""Which engine this is: its version, and the commit that a figure was measured at."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from collections.abc import Sequence
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


def command_line(module: str, arguments: Sequence[str]) -> str:
    """How a measurement is typed again; a file at an absolute path by its name: the place is of one machine."""
    return shlex.join(["python", "-m", module, *(_portable(argument) for argument in arguments)])


def _portable(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{Path(value).name}" if value.startswith("/") else argument
