"""`ming-eval accuracy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ming_eval.commands.backends import (
    ApiKeyOption,
    BackendOption,
    DialectOption,
    HeaderOption,
    ModelOption,
    Servers,
    choose_servers,
)
from ming_eval.commands.common import (
    DEFAULT_OUT,
    JsonOption,
    MaxErrorRateOption,
    OutOption,
    exit_on_error,
    nothing_measured,
    show,
    words,
)
from ming_eval.commands.config_option import ConfigOption, engine_args, from_config
from ming_eval.commands.load_options import ExtraBodyOption, WorkersOption
from ming_eval.errors import UsageError

if TYPE_CHECKING:
    from ming_eval.commands.accuracy_run import FinishedAccuracy
    from ming_eval.commands.accuracy_settings import AccuracySettings
    from ming_eval.commands.session import Job
    from ming_eval.evals.plan import Plan

EXAMPLES = """
\b
Examples:
  ming-eval accuracy mmlu
      the bundled sample of MMLU's form, on the bundled engine
  ming-eval accuracy --list
      suites, sizes, licences, protocols
  ming-eval accuracy mmlu --backend mine=http://localhost:8000 --data hub --per-group 5
      MMLU itself, 5 questions of each subject, at a running server
  ming-eval accuracy gsm8k ifeval --backend mine=http://localhost:8000 --concurrency 64
      two suites, 64 requests at a time
  ming-eval accuracy mmlu --data mmlu-test.parquet --protocol mcq-cot --repeats 3
      a local file in the hub's columns, reasoning first, every item three times
  ming-eval accuracy seed-tts --judge whisper-large-v3=http://localhost:9000
      texts spoken by the bundled engine, heard by a recogniser
  ming-eval accuracy seed-tts --data en/meta.lst --backend mine=http://localhost:8000 \\
      --judge whisper-large-v3=whisper:./sherpa-onnx-whisper-large-v3 --speaker-encoder campplus=./campplus.onnx
      Seed-TTS-eval itself; recogniser and speaker encoder run here
  ming-eval accuracy mmlu --data hub --backend a=http://h1:8000 --backend b=http://h2:8000 --shard --workers 4
      one suite spread over two servers of one model, asked by four processes
  ming-eval accuracy ./mine/suite.toml --data mine.jsonl
      a suite of your own
  ming-eval accuracy --resume 20260615T101500Z-accuracy-mine
      send what is missing of a run that was stopped
  ming-eval accuracy mmlu --extra-body '{"chat_template_kwargs": {"enable_thinking": false}}' --backend ...
      without reasoning, which the 16 tokens of an answer by letter would not hold
  ming-eval accuracy mmlu -- --tp 4
      options after -- go to the bundled engine
"""


def accuracy(
    ctx: typer.Context,
    suites: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE...]", help="Names of suites, or paths of suite.toml files.")
    ] = None,
    list_suites: Annotated[bool, typer.Option("--list", help="Show the bundled suites and exit.")] = False,
    backend: BackendOption = None,
    model: ModelOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|hub|OWNER/NAME[@REVISION]",
            help="Items: .jsonl in the normalised form; .csv, .parquet, a hub repository or a folder with a copy of "
            "one in the set's own columns; `hub` downloads the suite's own. [default: the bundled sample]",
        ),
    ] = None,
    examples: Annotated[
        str | None, typer.Option(metavar="PATH", help="Solved examples for protocols that show some.")
    ] = None,
    media_root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder with the data's media. [default: beside the data]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per suite, in proportion to the strata.")] = None,
    per_group: Annotated[
        int | None, typer.Option(min=1, help="Items of each stratum, such as each subject of MMLU.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="How to ask. [default: the suite's own default]")] = None,
    method: Annotated[
        str, typer.Option(help="`generate`, or `loglikelihood` of the choices through /v1/completions.")
    ] = "generate",
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer, reasoning included. [default: the protocol's]"),
    ] = None,
    extra_body: ExtraBodyOption = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time, per backend.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="How often every item is asked.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws samples and shuffles; sent with each request.")] = 0,
    shuffle_options: Annotated[bool, typer.Option("--shuffle-options", help="Shuffle choices by the seed.")] = False,
    rotate_options: Annotated[
        bool, typer.Option("--rotate-options", help="Ask every item once for each rotation of its choices.")
    ] = False,
    shard: Annotated[bool, typer.Option("--shard", help="Spread each suite over all backends.")] = False,
    workers: WorkersOption = "1",
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL=URL|MODEL=FAMILY:DIR",
            help="Recogniser that listens to speech: at a server (/v1/audio/transcriptions or chat), or a folder of "
            "one in sherpa-onnx's layout, such as whisper:DIR or paraformer:DIR.",
        ),
    ] = None,
    speaker_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Speaker encoder (.onnx) that tells how alike voices are; `rescore` also takes embeddings.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="Limit of one attempt.")] = 600.0,
    max_error_rate: MaxErrorRateOption = 0.05,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a stored run; its options hold unless given again.")
    ] = None,
    dialect: DialectOption = None,
    header: HeaderOption = None,
    api_key_env: ApiKeyOption = None,
    config: ConfigOption = None,  # noqa: ARG001 - has done its work when the others are read
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Score a model's answers, with statistics that hold."""
    with exit_on_error():
        if list_suites:
            _show_suites(json_path)
            raise typer.Exit
        typed_suites, typed_engine_args = _split(suites or [], words(ctx))
        named = from_config(ctx, "suites", typed_suites)
        typed = {
            "suites": tuple(named),
            "protocol": protocol,
            "method": method,
            "data": data,
            "examples": examples,
            "media_root": media_root,
            "limit": limit,
            "per_group": per_group,
            "repeats": repeats,
            "option_order": _order(shuffled=shuffle_options, rotated=rotate_options),
            "seed": seed,
            "concurrency": concurrency,
            "shard": shard,
            "workers": workers,
            "timeout_s": timeout,
            "max_error_rate": max_error_rate,
            "judge": judge,
            "speaker_encoder": speaker_encoder,
            "max_tokens": max_tokens,
            "extra_body": extra_body,
        }
        servers = choose_servers(
            backend or [],
            model=model or (),
            dialect=dialect or (),
            headers=header or [],
            key_variable=api_key_env,
            engine_args=engine_args(ctx, typed_engine_args),
        )
        if resume is None:
            finished = _start(ctx, typed, servers, out)
        else:
            finished = _resume(ctx, typed, servers, resume, out, header or [], api_key_env)
        show(_text(finished), finished.summary, json_path)
    raise typer.Exit(finished.summary.verdict.exit_code)


def _split(suites: Sequence[str], typed: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Suites, and what stands after `--` for the bundled engine."""
    engine_args = tuple(typed[typed.index("--") + 1 :]) if "--" in typed else ()
    return list(suites[: len(suites) - len(engine_args)]), engine_args


def _order(*, shuffled: bool, rotated: bool) -> str:
    if shuffled and rotated:
        raise UsageError("--shuffle-options and --rotate-options cannot go together: give one of them")
    return "shuffled" if shuffled else "cyclic" if rotated else "original"


def _start(ctx: typer.Context, typed: Mapping[str, Any], servers: Servers, out: Path) -> FinishedAccuracy:
    from ming_eval.commands.accuracy_settings import (
        AccuracySettings,
        make_plans,
        refuse_stored_embeddings,
        refuse_suites_twice,
    )
    from ming_eval.commands.session import Job
    from ming_eval.manifest import redacted_command

    settings = AccuracySettings.parse(typed)
    if settings.shard and len(servers.targets) < 2:
        raise UsageError("--shard spreads each suite over several servers: name more with --backend, or leave it out")
    refuse_stored_embeddings(settings)
    plans = make_plans(settings)
    refuse_suites_twice(plans)
    settings = settings.with_digests(plans)
    job = Job("accuracy", redacted_command(words(ctx)), servers, out, settings.seed, asdict(settings))
    return _ask(job, plans, settings)


def _resume(
    ctx: typer.Context,
    typed: Mapping[str, Any],
    servers: Servers,
    run: str,
    out: Path,
    headers: Sequence[str],
    key_variable: str | None,
) -> FinishedAccuracy:
    """Go on with a stored run. What is not on the command line is as it was; other servers are asked everything."""
    from ming_eval import manifest as manifests
    from ming_eval.commands.accuracy_settings import AccuracySettings, make_plans, refuse_other_protocol
    from ming_eval.commands.resume import stored_servers
    from ming_eval.commands.session import Job
    from ming_eval.run_folder import find_run

    if not servers.targets:
        _refuse_server_options(ctx)
    folder = find_run(run, out)
    manifest = manifests.read(folder)
    before = AccuracySettings.of(manifest)
    settings = before.changed(typed, _typed_names(ctx, typed))
    plans = make_plans(settings)
    settings = settings.with_digests(plans)
    refuse_other_protocol(before, settings, folder.name)
    command = manifest.command
    if servers.targets:
        named = (
            () if "backend" in _given(ctx) else (f"--backend={each.name}={each.base_url}" for each in servers.targets)
        )
        command = manifests.with_servers_of(command, manifests.redacted_command((*words(ctx), *named)))
    else:
        servers = stored_servers(manifest, headers, key_variable)
    if len(servers.targets or (None,)) != len(manifest.backends):
        raise UsageError(f"{folder.name} was asked of {len(manifest.backends)} backends: name as many, or none")
    job = Job("accuracy", command, servers, folder.parent, settings.seed, asdict(settings), resume=folder)
    return _ask(job, plans, settings)


def _typed_names(ctx: typer.Context, typed: Mapping[str, Any]) -> set[str]:
    """Which settings are on the command line."""
    names = {_SETTING_OF.get(name, name) for name in _given(ctx)} & typed.keys()
    return names - {"suites"} | ({"suites"} if typed["suites"] else set())


def _given(ctx: typer.Context) -> set[str]:
    """Which parameters are on the command line."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _refuse_server_options(ctx: typer.Context) -> None:
    """The stored servers are asked as they were: what is said of others would go unheard.

    Raises:
        UsageError: there are options of servers that no --backend names.
    """
    named = [f"--{name}" for name in ("model", "dialect") if name in _given(ctx)]
    if others := named + (["what stands after --"] if "--" in words(ctx) else []):
        raise UsageError(
            f"--resume asks the servers of the run as it began: leave out {' and '.join(others)}, "
            "or name servers with --backend"
        )


_SETTING_OF = {"timeout": "timeout_s", "shuffle_options": "option_order", "rotate_options": "option_order"}


def _ask(job: Job, plans: Sequence[Plan], settings: AccuracySettings) -> FinishedAccuracy:
    from ming_eval.commands.accuracy_run import run_accuracy
    from ming_eval.commands.accuracy_settings import check_workers
    from ming_eval.evals.retry import RetryPolicy
    from ming_eval.report.progress import Progress

    check_workers(settings)
    with Progress() as progress:
        finished = run_accuracy(job, plans, settings, progress, RetryPolicy())
    if finished is None:
        raise nothing_measured()
    return finished


def _text(finished: FinishedAccuracy) -> str:
    from ming_eval.report.accuracy_table import accuracy_text

    return f"{accuracy_text(finished.summary)}\n{finished.folder / 'summary.md'}\n"


def _show_suites(json_path: str | None) -> None:
    from ming_eval.commands.suite_list import suite_grid, suite_rows

    rows = suite_rows()
    show(suite_grid(rows).text(), rows, json_path)
