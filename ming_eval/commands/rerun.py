"""`ming-eval rerun`: a stored sweep once more, with the same request bytes."""

from __future__ import annotations

from typing import Annotated

import typer

from ming_eval.commands.backends import ApiKeyOption, HeaderOption
from ming_eval.commands.common import DEFAULT_OUT, JsonOption, OutOption, exit_on_error, show

EXAMPLES = """
\b
Examples:
  ming-eval rerun 20260615T101500Z-sweep-vllm
      the same load on the same server; the requests are checked to be the same
  ming-eval rerun results/20260615T101500Z-sweep-api --api-key-env API_KEY
      keys are not stored and must be given again
"""


def rerun(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A sweep by folder or name.")],
    header: HeaderOption = None,
    api_key_env: ApiKeyOption = None,
    out: OutOption = DEFAULT_OUT,
    json_path: JsonOption = None,
) -> None:
    """Repeat a stored sweep and check that the same bytes were asked.

    Exit code 1 where a request differs from the one of the stored run.
    """
    with exit_on_error():
        from ming_eval import manifest as manifests
        from ming_eval.commands.resume import stored_servers
        from ming_eval.commands.session import Job
        from ming_eval.commands.sweep import run_and_describe
        from ming_eval.load.conversations import History
        from ming_eval.load.repeat import compare_requests
        from ming_eval.load.summary import read_plan
        from ming_eval.run_folder import find_run, read_records

        stored = find_run(run, out)
        manifest = manifests.read(stored)
        plan = read_plan(manifest)
        servers = stored_servers(manifest, header or [], api_key_env)
        job = Job("sweep", manifest.command, servers, out, plan.seed, manifest.settings, note=manifest.note)
        finished, text = run_and_describe(job, plan)
        repeated = compare_requests(
            read_records(stored), read_records(finished.folder), hold_replies=plan.history is History.REPLIES
        )
        show(f"{repeated}\n\n{text}", finished.summary, json_path)
    raise typer.Exit(finished.summary.verdict.exit_code or int(not repeated.is_exact))
