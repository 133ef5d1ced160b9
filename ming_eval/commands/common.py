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


def _checked_json(json_path: str | None) -> str | None:
    """A path that cannot be written to is found before anything is measured."""
    if json_path not in (None, "-"):
        from ming_eval import results

        with exit_on_error():
            results.check_writable(Path(json_path))
    return json_path


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="PATH", callback=_checked_json, help="Also write the result as JSON; - is standard output."
    ),
]
MaxErrorRateOption = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Share of failed requests above which the exit code is 1."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="Without output for so long, a request has failed. [default: 120 to the first output, 60 after it]",
    ),
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
    typer.echo(text, nl=False, err=json_path == "-")
    if json_path is not None:
        _write_json(value, json_path)


def nothing_measured() -> typer.Exit:
    """Say that a run was interrupted too early to leave anything; to be raised."""
    typer.echo("ming-eval: interrupted before the first request; nothing was measured", err=True)
    return typer.Exit(130)


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
