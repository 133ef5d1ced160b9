"""`ming-eval coverage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    TimeoutOption,
    exit_on_error,
    nothing_measured,
    show,
    words,
)
from ming_eval.commands.config_option import ConfigOption, engine_args

if TYPE_CHECKING:
    from ming_eval.commands.coverage_run import FinishedCoverage
    from ming_eval.coverage.cases import CaseSet
    from ming_eval.coverage.plan import CoveragePlan

EXAMPLES = """
\b
Examples:
  ming-eval coverage
      start the bundled engine with its embedded tiny model and ask it about
      bundled texts, images, sounds and clips
  ming-eval coverage --backend mine=http://localhost:8000
      what a running server can do
  ming-eval coverage --modalities T2T,I2T --max-tokens 16 --json -
      two modalities, short answers, the summary as JSON on standard output
  ming-eval coverage --modalities T2S,A2S --backend mine=http://localhost:8000
      spoken answers; the run's folder keeps them as WAV files
  ming-eval coverage --model ./Ming-flash-omni-2.0 -- --tp 4
      options after -- go to the bundled engine

\b
A case passes when its reply is complete and its media added tokens to the
prompt. Exit code 1: more cases failed than --max-error-rate allows, or no case
of a modality that was asked for passed.
"""


def coverage(
    ctx: typer.Context,
    modalities: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="From T2T,I2T,A2T,V2T,T2S,I2S,A2S,V2S: text, image, audio, video to text or speech. "
            "[default: all of them]",
        ),
    ] = None,
    backend: BackendOption = None,
    model: ModelOption = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Output tokens per request. [default: 32 to 96, by case]")
    ] = None,
    max_error_rate: MaxErrorRateOption = 0.05,
    timeout: TimeoutOption = None,
    dialect: DialectOption = None,
    header: HeaderOption = None,
    api_key_env: ApiKeyOption = None,
    config: ConfigOption = None,  # noqa: ARG001 - has done its work when the others are read
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Find out which modalities servers serve, and how fast."""
    with exit_on_error():
        from ming_eval.coverage.cases import load_cases, parse_tasks
        from ming_eval.coverage.plan import CoveragePlan

        cases = load_cases()
        plan = CoveragePlan(parse_tasks(modalities), cases.version, max_tokens, max_error_rate, timeout)
        servers = choose_servers(
            backend or [],
            model=model or (),
            dialect=dialect or (),
            headers=header or [],
            key_variable=api_key_env,
            engine_args=engine_args(ctx, ctx.args),
        )
        finished = _run(words(ctx), servers, out, plan, cases)
        show(_text(finished), finished.summary, json_path)
    raise typer.Exit(finished.summary.verdict.exit_code)


def _run(typed: Sequence[str], servers: Servers, out: Path, plan: CoveragePlan, cases: CaseSet) -> FinishedCoverage:
    from ming_eval.commands.coverage_run import run_coverage
    from ming_eval.commands.session import Job
    from ming_eval.coverage.cases import SEED
    from ming_eval.manifest import redacted_command
    from ming_eval.report.progress import Progress

    job = Job("coverage", redacted_command(typed), servers, out, SEED, asdict(plan))
    with Progress() as progress:
        finished = run_coverage(job, plan, cases, progress)
    if finished is None:
        raise nothing_measured()
    return finished


def _text(finished: FinishedCoverage) -> str:
    from ming_eval.report.coverage_table import coverage_text

    return f"{coverage_text(finished.summary)}\n{finished.folder / 'summary.md'}\n"
