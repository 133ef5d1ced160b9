"""`ming-eval doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.commands.backends import ApiKeyOption, DialectOption, HeaderOption, ModelOption, choose_servers
from ming_eval.commands.common import JsonOption, exit_on_error, show

if TYPE_CHECKING:
    from ming_eval.doctor.diagnosis import Diagnosis

EXAMPLES = """
\b
Examples:
  ming-eval doctor http://localhost:8000
      what a running server can do, and what a run against it will not say
  ming-eval doctor https://api.example.com --api-key-env API_KEY --model m --json -
      the same as JSON on standard output
  ming-eval doctor http://localhost:8000 --max-time 20
      only what 20 seconds suffice for

\b
Exit codes: 0 a sweep can measure this server, perhaps with limits that are
listed; 1 every request of a sweep would fail; 2 wrong usage; 3 nobody listens.
"""


def doctor(
    url: Annotated[str, typer.Argument(metavar="URL", help="Base URL of a running server.")],
    model: ModelOption = None,
    dialect: DialectOption = None,
    header: HeaderOption = None,
    api_key_env: ApiKeyOption = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="An answer that takes longer is none.")
    ] = 30.0,
    max_time: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="What was not looked at by then is reported as unseen."),
    ] = 180.0,
    json_path: JsonOption = None,
) -> None:
    """Ask a server what it can do, and say what will not be measurable."""
    with exit_on_error():
        servers = choose_servers(
            [url],
            model=model or (),
            dialect=dialect or (),
            headers=header or [],
            key_variable=api_key_env,
            engine_args=(),
        )
        from ming_eval.coverage.cases import load_cases
        from ming_eval.doctor.examine import examine
        from ming_eval.load.interrupt import run
        from ming_eval.report.progress import Progress

        with Progress() as progress:
            found = run(
                examine(
                    servers.targets[0],
                    load_cases(),
                    is_dialect_given=bool(dialect),
                    limit_s=timeout,
                    total_s=max_time,
                    say=progress.status,
                )
            )
        show(_text(found, url), _as_json(found), json_path)
    raise typer.Exit(found.exit_code)


def _text(found: Diagnosis, url: str) -> str:
    from ming_eval.report.grid import Grid
    from ming_eval.targets import find_dialect

    dialect = find_dialect(found.dialect)
    tested = f"; run against {dialect.run_against}" if dialect.run_against else "; untested: written from documentation"
    rows = [[finding.name, finding.status.value, finding.detail] for finding in found.findings]
    lines = [
        f"{found.url}, model {found.model or 'unknown'}",
        f"dialect: {found.dialect}, {dialect.title} ({found.dialect_reason}{tested})",
        "",
        Grid(["what", "found", "in detail"], rows, num_labels=3).text(),
    ]
    if found.not_measurable:
        lines += ["What a run will not say:", *(f"  - {costs}" for costs in dict.fromkeys(found.not_measurable)), ""]
    if found.can_be_measured:
        model = f" --model {found.model or 'NAME'}" if dialect.names_model and len(found.models) != 1 else ""
        lines.append(f"To measure it: ming-eval sweep --backend a={url} --dialect {found.dialect}{model}")
    else:
        lines.append("A sweep would count every request as failed.")
    return "\n".join(lines) + "\n"


def _as_json(found: Diagnosis) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(found) | {"not_measurable": found.not_measurable}
