"""`--config FILE`: options from a file; those on the command line win."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperOption

from ming_eval.commands.common import exit_on_error


def _use(ctx: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        from ming_eval.config_file import read_config

        takers = [each for each in ctx.command.params if isinstance(each, TyperOption) and each.name != "config"]
        options = {word.lstrip("-"): each.name for each in takers for word in each.opts if each.name is not None}
        repeatable = {each.name for each in takers if each.multiple and each.name is not None}
        with exit_on_error():
            ctx.default_map = {**(ctx.default_map or {}), **read_config(path, options, repeatable)}
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_use,
        help="TOML file with options, such as max-tokens = 128; the command line wins.",
    ),
]
