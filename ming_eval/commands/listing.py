"""`ming-eval list`: the names that options take."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import JsonOption, exit_on_error, show
from ming_eval.errors import UsageError

if TYPE_CHECKING:
    from ming_eval.report.grid import Grid

EXAMPLES = """
\b
Examples:
  ming-eval list
  ming-eval list profiles
  ming-eval list dialects --json -
"""


class What(StrEnum):
    """Kinds of things that have names."""

    PROFILES = "profiles"
    PROMPTS = "prompts"
    DATASETS = "datasets"
    DIALECTS = "dialects"


def list_names(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[profiles|prompts|datasets|dialects]", help="Which of them; all when left out."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """List profiles, prompt sets, data sets and dialects."""
    with exit_on_error():
        tables = {kind.value: _table(kind) for kind in ([_chosen(what)] if what else What)}
        text = "\n".join(f"{name}\n{table.text()}" for name, table in tables.items())
        show(text, {name: _as_dicts(table) for name, table in tables.items()}, json_path)


def _chosen(what: str) -> What:
    if what not in list(What):
        raise UsageError(f"nothing is called {what!r}: choose one of {', '.join(What)}, or leave it out for all")
    return What(what)


def _table(kind: What) -> Grid:
    match kind:
        case What.PROFILES:
            return _profiles()
        case What.PROMPTS:
            return _prompts()
        case What.DATASETS:
            return _datasets()
        case What.DIALECTS:
            return _dialects()


def _profiles() -> Grid:
    from ming_eval.load.profiles import PROFILES
    from ming_eval.report.grid import Grid

    rows = [[profile.name, profile.concurrency, profile.description] for profile in PROFILES.values()]
    return Grid(["name", "concurrency", "what it does"], rows, num_labels=3)


def _prompts() -> Grid:
    from ming_eval.load.workload import PROMPT_SETS, load_prompts
    from ming_eval.report.grid import Grid

    rows = [[name, str(len(load_prompts(name))), about] for name, (_, about) in PROMPT_SETS.items()]
    return Grid(["name", "prompts", "what is in it"], rows, num_labels=3)


def _datasets() -> Grid:
    from ming_eval.load.datasets import NAMED_SETS
    from ming_eval.report.grid import Grid

    rows = [
        [each.name, each.task.value, each.title, each.hub.repo if each.hub else "a folder only", each.layout]
        for each in NAMED_SETS.values()
    ]
    return Grid(["name", "task", "what it is", "hub", "files below --dataset-dir"], rows, num_labels=5)


def _dialects() -> Grid:
    from ming_eval.report.grid import Grid
    from ming_eval.targets import DIALECTS

    rows = [
        [
            each.name,
            each.title,
            "yes" if each.supports_ignore_eos else "no",
            f"run against {each.run_against}" if each.run_against else "untested: from documentation",
        ]
        for each in DIALECTS.values()
    ]
    return Grid(["name", "servers", "ignore_eos", "tested"], rows, num_labels=4)


def _as_dicts(table: Grid) -> list[dict[str, str]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]
