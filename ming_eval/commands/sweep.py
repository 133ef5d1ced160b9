"""`ming-eval sweep`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show, words
from ming_eval.errors import UsageError

if TYPE_CHECKING:
    from ming_eval.commands.session import Finished, SweepJob
    from ming_eval.load.plan import LoadPlan
    from ming_eval.targets import Target

EXAMPLES = """
\b
Examples:
  ming-eval sweep --concurrency 1..32
      start the bundled engine with its embedded tiny model and load it with
      1, 2, 4, 8, 16 and 32 requests at a time
  ming-eval sweep --backend vllm=http://localhost:8000 --concurrency 1..64
      measure a server that is running
  ming-eval sweep --backend a=http://host-a:8000 --backend b=http://host-b:8000
      two servers, the same requests, point by point in turn
  ming-eval sweep --concurrency 1..32:4 --requests 200 --max-tokens 256 --seed 7
      steps of 4, longer answers, other prompts
  ming-eval sweep --backend api=https://api.example.com --api-key-env API_KEY --json -
      a key from the environment, the summary as JSON on standard output
  ming-eval sweep --model ./Ming-flash-omni-2.0 -- --tp 4
      options after -- go to the bundled engine
"""


def sweep(
    ctx: typer.Context,
    concurrency: Annotated[
        str | None,
        typer.Option(metavar="POINTS", help="1..32 doubles, 1..32:4 steps by 4, 1,3,9 lists. [default: 1..32]"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A server to measure; repeatable. Without it, the bundled engine runs."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model to ask for [default: the first one listed]; of the bundled engine, what it loads."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Load profile; `ming-eval list profiles` shows them.")] = "chat",
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests per point. [default: max(16, 4 x concurrency)]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Output tokens per request. [default: 64]")] = None,
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Fixed output lengths, where the server's dialect has them. [default: ignore-eos]",
        ),
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, help="Waves of requests before each point that count nowhere. [default: 1]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the order of the prompts; sent with each request.")] = 0,
    max_error_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of failed requests above which the exit code is 1.")
    ] = 0.05,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Without output for so long, a request has failed. [default: 120 to the first output, 60 after it]",
        ),
    ] = None,
    dialect: Annotated[
        str | None, typer.Option(help="How the servers spell the API. [default: from their model card]")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent to every server; repeatable, never stored.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")
    ] = None,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Measure servers at rising concurrency."""
    with exit_on_error():
        from ming_eval.load.profiles import find_profile, override, plan_load

        chosen = override(
            find_profile(profile),
            concurrency=concurrency,
            requests=requests,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
            warmup_waves=warmup,
        )
        plan = plan_load(chosen, seed=seed, max_error_rate=max_error_rate, timeout_s=timeout)
        targets = _targets(backend or [], model, dialect, header or [], api_key_env)
        job = _job(plan, targets, model, guess_dialect=dialect is None, engine_args=ctx.args, out=out, typed=words(ctx))
        finished = _run(job)
        show(_text(finished), finished.summary, json_path)
    raise typer.Exit(finished.summary.verdict.exit_code)


def _targets(
    backends: Sequence[str], model: str | None, dialect: str | None, headers: Sequence[str], key_variable: str | None
) -> tuple[Target, ...]:
    from ming_eval.targets import Target

    pairs = [_header(text) for text in headers]
    api_key = _api_key(key_variable)
    targets = []
    for text in backends:
        name, url = split_backend(text)
        targets.append(
            Target.at(url, name=name, model=model, headers=pairs, api_key=api_key, dialect=dialect or "openai")
        )
    names = [target.name for target in targets]
    if len(set(names)) != len(names):
        raise UsageError(f"two backends have one name in {', '.join(names)}: write --backend NAME=URL with other names")
    return tuple(targets)


def split_backend(text: str) -> tuple[str | None, str]:
    """Name and URL of `NAME=URL`; a bare URL has no name.

    Raises:
        UsageError: the name is empty or holds characters that a file name should not.
    """
    name, equals, url = text.partition("=")
    if not equals or "://" in name:
        return None, text
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"bad backend name {name!r}: use letters, digits, dot, dash and underscore")
    return name, url


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError("a header without a colon: write --header 'NAME: VALUE'")
    return name.strip(), value.strip()


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable not in os.environ:
        raise UsageError(f"--api-key-env {variable}: there is no such environment variable")
    return os.environ[variable]


def _job(
    plan: LoadPlan,
    targets: tuple[Target, ...],
    model: str | None,
    *,
    guess_dialect: bool,
    engine_args: Sequence[str],
    out: Path,
    typed: Sequence[str],
) -> SweepJob:
    from ming_eval.commands.session import SweepJob
    from ming_eval.manifest import redacted_command

    if engine_args and not engine_args[0].startswith("-"):
        raise UsageError(f"unexpected argument {engine_args[0]!r}: a server is named with --backend NAME=URL")
    if engine_args and targets:
        raise UsageError("options after -- are for the bundled engine, which does not run when --backend is given")
    chosen = ("--model", model) if model is not None and not targets else ()
    return SweepJob(plan, targets, guess_dialect, (*chosen, *engine_args), out, redacted_command(typed))


def _run(job: SweepJob) -> Finished:
    from ming_eval.commands.session import run_job
    from ming_eval.report.progress import Progress

    with Progress() as progress:
        finished = run_job(job, progress)
    if finished is None:
        typer.echo("ming-eval: interrupted before the first request; nothing was measured", err=True)
        raise typer.Exit(130)
    return finished


def _text(finished: Finished) -> str:
    from ming_eval.report.terminal import sweep_text

    return f"{sweep_text(finished.summary)}\n{finished.folder / 'summary.md'}\n"
