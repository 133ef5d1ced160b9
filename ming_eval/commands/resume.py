"""`ming-eval sweep --resume RUN`: what is left to do of a run that did not get to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ming_eval.commands.backends import Servers, choose_servers
from ming_eval.errors import UsageError

if TYPE_CHECKING:
    from ming_eval.commands.session import Job
    from ming_eval.load.plan import LoadPlan
    from ming_eval.manifest import Manifest

_MAY_STAND_BESIDE = frozenset({"resume", "header", "api_key_env", "out", "json_path"})


def resumed_job(
    ctx: typer.Context, run: str, *, out: Path, headers: Sequence[str], key_variable: str | None
) -> tuple[Job, LoadPlan]:
    """The job and the plan of the run as its manifest has them; keys are not stored and must be given again.

    Raises:
        UsageError: the run is complete, or options were given that a resumed run cannot change.
        DataError: there is no such run, or it is no sweep.
    """
    from ming_eval import manifest as manifests
    from ming_eval.commands.session import Job
    from ming_eval.load.summary import read_plan
    from ming_eval.run_folder import find_run

    _refuse_other_options(ctx)
    folder = find_run(run, out)
    manifest = manifests.read(folder)
    plan = read_plan(manifest)
    _refuse_complete(folder)
    servers = stored_servers(manifest, headers, key_variable)
    job = Job("sweep", manifest.command, servers, folder.parent, plan.seed, manifest.settings, resume=folder)
    return job, plan


def _refuse_other_options(ctx: typer.Context) -> None:
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if others := sorted(set(typed) - _MAY_STAND_BESIDE):
        raise UsageError(f"--resume goes on as the run began: leave out --{others[0].replace('_', '-')}")


def _refuse_complete(folder: Path) -> None:
    from ming_eval import results

    if (folder / "summary.json").exists() and not results.read(folder).partial:
        raise UsageError(f"{folder.name} is complete: there is nothing to resume")


def stored_servers(manifest: Manifest, headers: Sequence[str], key_variable: str | None) -> Servers:
    from ming_eval.targets import find_dialect

    running = [backend for backend in manifest.backends if not backend.launched]
    chosen = choose_servers(
        [f"{backend.name}={backend.url}" for backend in running],
        model=(),
        dialect=(),
        headers=headers,
        key_variable=key_variable,
        engine_args=() if running else manifest.engine_args,
    )
    targets = tuple(
        replace(target, model=backend.model, dialect=find_dialect(backend.dialect))
        for target, backend in zip(chosen.targets, running, strict=True)
    )
    return Servers(targets, not running, chosen.engine_args)
