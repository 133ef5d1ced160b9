"""`ming-eval sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ming_eval.commands import load_options, workload_options
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
    TimeoutOption,
    exit_on_error,
    nothing_measured,
    show,
    words,
)
from ming_eval.commands.config_option import ConfigOption, engine_args
from ming_eval.commands.resume import resumed_job

if TYPE_CHECKING:
    from ming_eval.commands.capacity import Extras
    from ming_eval.commands.session import Job
    from ming_eval.commands.sweep_run import FinishedSweep
    from ming_eval.load.plan import LoadPlan

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
  ming-eval sweep --backend a=http://localhost:8000 --rate 1..16 --duration 60 --slo ttft=500ms
      an open loop: Poisson arrivals at 1, 2, 4, 8 and 16 requests per second,
      and the share of requests with a first output within 500 ms
  ming-eval sweep --concurrency 1..256 --search "ttft_ms.p99<500 and tpot_ms.p95<50"
      the highest load that meets both limits
  ming-eval sweep --task I2T,T2S --concurrency 1..8 --image-size 896
      pictures in, speech out: points of each, media made for every request
  ming-eval sweep --dataset food101 --dataset-dir ~/data/food-101
      photographs of a published set instead
  ming-eval sweep --turns 4 --think-time 2 --concurrency 8
      conversations of four turns
  ming-eval sweep --repeats 5 --concurrency 8
      five passes, with intervals over them
  ming-eval sweep --concurrency 1..64 --arrivals waves --api completions --input-tokens 64 --max-tokens 128 \
    --temperature 1
      what offline benchmarks do: random token ids in full waves, drawn answers, each with a seed of its own
  ming-eval sweep --config nightly.yaml --seed 7
      options from a YAML or TOML file (max-tokens: 128), the seed from here
  ming-eval sweep --resume 20260615T101500Z-sweep-a
      finish a run that was cut short
"""


def sweep(
    ctx: typer.Context,
    concurrency: Annotated[
        str | None,
        typer.Option(metavar="POINTS", help="1..32 doubles, 1..32:4 steps by 4, 1,3,9 lists. [default: 1..32]"),
    ] = None,
    rate: load_options.RateOption = None,
    arrivals: load_options.ArrivalsOption = None,
    burstiness: load_options.BurstinessOption = None,
    trace: load_options.TraceOption = None,
    max_in_flight: load_options.MaxInFlightOption = None,
    backend: BackendOption = None,
    model: ModelOption = None,
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
    seed: Annotated[
        int,
        typer.Option(help="Draws the order of the prompts; sent with each request, or what is sent is drawn from it."),
    ] = 0,
    input_tokens: load_options.InputTokensOption = None,
    output_tokens: load_options.OutputTokensOption = None,
    tokenizer: load_options.TokenizerOption = None,
    api: load_options.ApiOption = "chat",
    vocabulary: load_options.VocabularyOption = None,
    task: workload_options.TaskOption = None,
    dataset: workload_options.DatasetOption = None,
    dataset_dir: workload_options.DatasetDirOption = None,
    files: workload_options.FilesOption = 1,
    image_size: workload_options.ImageSizeOption = "448",
    audio_seconds: workload_options.AudioSecondsOption = 4.0,
    video_seconds: workload_options.VideoSecondsOption = 2.0,
    video_size: workload_options.VideoSizeOption = "320x240",
    turns: workload_options.TurnsOption = None,
    think_time: workload_options.ThinkTimeOption = 0.0,
    history: workload_options.HistoryOption = None,
    repeats: workload_options.RepeatsOption = 1,
    logprobs: workload_options.LogprobsOption = None,
    temperature: workload_options.TemperatureOption = 0.0,
    seed_per_request: workload_options.SeedPerRequestOption = None,
    duration: load_options.DurationOption = None,
    until: load_options.UntilOption = None,
    stop_error_rate: load_options.StopErrorRateOption = None,
    max_time: load_options.MaxTimeOption = None,
    order: load_options.OrderOption = "given",
    rest: load_options.RestOption = 0.0,
    outage_limit: load_options.OutageLimitOption = 30.0,
    nonce: load_options.NonceOption = True,
    extra_body: load_options.ExtraBodyOption = None,
    workers: load_options.WorkersOption = "1",
    slo: load_options.SloOption = None,
    max_error_rate: MaxErrorRateOption = 0.05,
    timeout: TimeoutOption = None,
    dialect: DialectOption = None,
    header: HeaderOption = None,
    api_key_env: ApiKeyOption = None,
    search: load_options.SearchOption = None,
    gpus: load_options.GpusOption = None,
    price_per_hour: load_options.PriceOption = None,
    note: load_options.NoteOption = None,
    resume: load_options.ResumeOption = None,
    dry_run: load_options.DryRunOption = False,
    config: ConfigOption = None,  # noqa: ARG001 - has done its work when the others are read
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Measure servers at rising concurrency, or at rising rates of requests."""
    with exit_on_error():
        if resume is not None:
            job, plan = resumed_job(ctx, resume, out=out, headers=header or [], key_variable=api_key_env)
            _finish(_run(job, plan), json_path)
        from ming_eval.commands.capacity import choose_extras
        from ming_eval.load.conversations import History
        from ming_eval.load.plan import Api, Order, Shape
        from ming_eval.load.profiles import find_profile, override, plan_load
        from ming_eval.load.shaping import ShapeOptions, choose, shape_load

        chosen = override(
            find_profile(profile),
            concurrency=concurrency,
            requests=requests,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
            warmup_waves=warmup,
        )
        options = ShapeOptions(
            rate=rate,
            arrivals=choose(Shape, "--arrivals", arrivals),
            burstiness=burstiness,
            trace=trace,
            max_in_flight=max_in_flight,
            order=choose(Order, "--order", order) or Order.GIVEN,
            duration_s=duration,
            stop_error_rate=stop_error_rate,
            until=until,
            rest_s=rest,
            outage_limit_s=outage_limit,
            max_time_s=max_time,
            nonce=nonce,
            slos=slo or (),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            tokenizer=tokenizer,
            extra_body=extra_body,
            workers=workers,
            tasks=task,
            dataset=dataset,
            dataset_dir=dataset_dir,
            media=workload_options.media_shape(files, image_size, audio_seconds, video_seconds, video_size),
            turns=turns,
            think_s=think_time,
            history=choose(History, "--history", history),
            repeats=repeats,
            logprobs=logprobs,
            temperature=temperature,
            seed_per_request=seed_per_request,
            api=choose(Api, "--api", api) or Api.CHAT,
            vocabulary=vocabulary,
        )
        base = plan_load(chosen, seed=seed, max_error_rate=max_error_rate, timeout_s=timeout)
        plan = shape_load(base, options)
        servers = choose_servers(
            backend or [],
            model=model or (),
            dialect=dialect or (),
            headers=header or [],
            key_variable=api_key_env,
            engine_args=engine_args(ctx, ctx.args),
        )
        if dry_run:
            from ming_eval.commands.dry_run import dry_run_text

            guess_dialect = any(map(servers.guesses, servers.targets[:1]))  # the first one's request is shown
            typer.echo(dry_run_text(plan, servers.targets, out, guess_dialect=guess_dialect), nl=False)
            raise typer.Exit
        extras = choose_extras(plan, len(servers.targets), search, gpus, price_per_hour)
        _finish(_run(_job(words(ctx), servers, out, plan, note), plan, extras), json_path)


def run_and_describe(job: Job, plan: LoadPlan) -> tuple[FinishedSweep, str]:
    """Run a sweep; what it left and the text for the terminal."""
    finished = _run(job, plan)
    return finished, _text(finished)


def _finish(finished: FinishedSweep, json_path: str | None) -> NoReturn:
    show(_text(finished), finished.summary, json_path)
    raise typer.Exit(finished.summary.verdict.exit_code)


def _job(typed: Sequence[str], servers: Servers, out: Path, plan: LoadPlan, note: str | None) -> Job:
    from ming_eval.commands.session import Job
    from ming_eval.manifest import redacted_command

    return Job("sweep", redacted_command(typed), servers, out, plan.seed, asdict(plan), note=note)


def _run(job: Job, plan: LoadPlan, extras: Extras | None = None) -> FinishedSweep:
    from ming_eval.commands.sweep_run import NO_EXTRAS, run_sweep
    from ming_eval.report.progress import Progress

    with Progress() as progress:
        finished = run_sweep(job, plan, progress, extras or NO_EXTRAS)
    if finished is None:
        raise nothing_measured()
    return finished


def _text(finished: FinishedSweep) -> str:
    from ming_eval.report.terminal import sweep_text

    more = finished.findings.text + finished.compared.text()
    return f"{sweep_text(finished.summary)}\n{more}{finished.folder / 'summary.md'}\n"
