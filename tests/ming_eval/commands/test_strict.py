"""What every command line refuses: numbers that are none, and options of which only the last would count."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ming_eval.cli import app

ARGUMENTS = {"doctor": ["http://127.0.0.1:1"]}
COMMANDS = ("sweep", "coverage", "accuracy", "doctor")


def call(command: str, *words: str) -> Result:
    return CliRunner().invoke(app, [command, *ARGUMENTS.get(command, ()), *words])


def numbers_of(command: str) -> list[tuple[str, str]]:
    """Every option that takes a number with a fraction."""
    found = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return [(command, each.opts[0]) for each in found if each.type.name.startswith("float")]


@pytest.mark.parametrize(("command", "option"), [pair for command in COMMANDS for pair in numbers_of(command)])
def test_a_number_that_is_none_is_refused(command: str, option: str) -> None:
    """It passes every comparison with a limit, and then ends nothing, or breaks what is stored."""
    for word in ("nan", "inf"):
        done = call(command, f"{option}={word}")
        assert done.exit_code == 2, done.output
        assert f"Invalid value for '{option}': {word} is not " in done.output


def test_a_file_is_held_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("rest: .inf\n")
    done = call("sweep", "--config", str(path))
    assert done.exit_code == 2
    assert "Invalid value for '--rest': inf is not a finite number" in done.output


@pytest.mark.parametrize(
    "words",
    [("--concurrency", "1", "--concurrency", "8"), ("--one-seed", "--seed-per-request"), ("--json=-", "--json", "x")],
)
def test_an_option_that_counts_once_does_not_stand_twice(words: tuple[str, ...]) -> None:
    done = call("sweep", *words)
    assert done.exit_code == 2, done.output
    assert "it stands there twice" in done.output


def test_an_option_that_counts_every_time_does() -> None:
    backends = ("--backend", "a=http://127.0.0.1:1", "--backend", "b=http://127.0.0.1:2")
    done = call("sweep", *backends, "--header", "x: 1", "--header", "y: 2", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "2 backends" in done.output
