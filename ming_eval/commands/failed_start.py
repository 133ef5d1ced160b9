"""The folder of a run that never asked anything: the engine's log if any, and a manifest by which `runs` lists it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ming_eval import manifest as manifests
from ming_eval import results
from ming_eval.manifest import Manifest
from ming_eval.report.document import how_to_repeat
from ming_eval.results import RunSummary, Summary, Verdict
from ming_eval.run_folder import REQUESTS_FILE


def write_failed_start(folder: Path, manifest: Manifest, verdict: Verdict) -> None:
    """Write manifest, summary and an empty list of requests beside the log.

    Raises:
        DataError: they cannot be written.
    """
    manifest = replace(manifest, finished=manifests.utc_now())
    summary = Summary(
        run=manifest.run,
        command=manifest.command,
        started=manifest.started,
        finished=manifest.finished,
        seed=manifest.seed,
        partial=True,
        verdict=verdict,
        max_error_rate=manifest.settings.get("max_error_rate", 0.0),
        settings=manifest.settings,
        backends=manifest.backends,
        requests=0,
        failed=0,
        error_rate=None,
    )
    manifests.write(manifest, folder)
    results.write_whole(folder / REQUESTS_FILE, b"")
    results.write(summary, folder / "summary.json")
    results.write_whole(folder / "summary.md", _document(summary, manifest).encode())


def _document(summary: RunSummary, manifest: Manifest) -> str:
    why = f"{summary.verdict.status}: {summary.verdict.reason}."
    if any(backend.launched for backend in summary.backends):
        why += " What the engine said is in `engine.log`."
    return "\n\n".join(["# A run that did not start", why, *how_to_repeat(summary, manifest)]) + "\n"
