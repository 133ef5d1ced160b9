"""What the commands share: errors to exit codes, `--json`, the words of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ming_eval.errors import MingEvalError

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder that holds one folder per run.")]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="PATH", help="Also write the result as JSON; - is standard output.")
]
DEFAULT_OUT = Path("results")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn the harness's errors into one message on standard error and their exit code."""
    try:
        yield
    except MingEvalError as exc:
        typer.echo(f"ming-eval: {exc}", err=True)
        raise typer.Exit(exc.exit_code) from exc
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def show(text: str, value: object, json_path: str | None) -> None:
    """Print `text` on standard output and write `value` as JSON where asked; with `-`, `text` gives way to it.

    Raises:
        DataError: the JSON file cannot be written.
    """
    if json_path is not None:
        _write_json(value, json_path)
    typer.echo(text, nl=False, err=json_path == "-")


def words(ctx: typer.Context) -> tuple[str, ...]:
    """The command line as it was typed, without the program's name."""
    found: tuple[str, ...] = ctx.find_root().obj
    return found


def _write_json(value: object, json_path: str) -> None:
    from ming_eval import results  # msgspec is not needed for --help

    data = results.encode(value)
    if json_path == "-":
        sys.stdout.write(data.decode())
    else:
        results.write_whole(Path(json_path), data)
