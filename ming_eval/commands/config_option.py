"""`--config FILE`: options from a file; those on the command line win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperArgument, TyperOption

from ming_eval.commands.common import exit_on_error

_ENGINE_ARGS = "engine-args"  # what stands after -- on the command line
_META = "ming_eval.config"


def _use(ctx: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        from ming_eval.config_file import read_config

        takers = [each for each in ctx.command.params if isinstance(each, TyperOption) and each.name != "config"]
        options = {word.lstrip("-"): each.name for each in takers for word in each.opts if each.name is not None}
        lists = {each.name for each in takers if each.multiple and each.name is not None}
        named = {each.name for each in ctx.command.params if isinstance(each, TyperArgument) and each.name is not None}
        beside = {_ENGINE_ARGS, *named}
        with exit_on_error():
            found = read_config(path, options | {name: name for name in beside}, lists | beside)
        ctx.meta[_META] = {name: found.pop(name) for name in beside if name in found}
        ctx.default_map = {**(ctx.default_map or {}), **found}
    return path


def from_config(ctx: typer.Context, name: str, typed: Sequence[str] | None) -> list[str]:
    """What was `typed` on the command line in place of an argument, else what the file has under `name`."""
    return list(typed or ctx.meta.get(_META, {}).get(name, ()))


def engine_args(ctx: typer.Context, typed: Sequence[str]) -> list[str]:
    """Options of the bundled engine: what stands after `--`, else `engine-args` of the file."""
    return from_config(ctx, _ENGINE_ARGS, typed)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_use,
        help="YAML or TOML file with options, such as max-tokens: 128 or max-tokens = 128; the command line wins.",
    ),
]
