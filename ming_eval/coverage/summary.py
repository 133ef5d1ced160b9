"""Results of cases -> modalities, verdict, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum
from typing import TypeVar

from ming_eval.coverage.cases import CaseSet
from ming_eval.coverage.judge import Status
from ming_eval.coverage.plan import read_plan
from ming_eval.manifest import Manifest
from ming_eval.results import CoverageCase, CoverageSummary, ModalityResult, Verdict
from ming_eval.types import Task

N = TypeVar("N", int, float)


def summarise_coverage(
    manifest: Manifest, cases: CaseSet, results: Sequence[CoverageCase], cut_short: Verdict | None
) -> CoverageSummary:
    """The summary of a run, server by server; `cut_short` is why it did not get to its end.

    Raises:
        DataError: the manifest is not that of a coverage run.
    """
    plan = read_plan(manifest)
    backends = [backend.name for backend in manifest.backends]
    ordered = sorted(results, key=lambda result: backends.index(result.backend))
    modalities = [
        summarise_modality(backend, task, len(cases.of(task)), _of(ordered, backend, task))
        for backend in backends
        for task in plan.modalities
    ]
    failed = sum(result.status == Status.FAIL for result in results)
    return CoverageSummary(
        run=manifest.run,
        command=manifest.command,
        started=manifest.started,
        finished=manifest.finished,
        seed=manifest.seed,
        partial=cut_short is not None,
        verdict=cut_short or _judge(modalities, failed, len(results), plan.max_error_rate),
        max_error_rate=plan.max_error_rate,
        settings=manifest.settings,
        backends=manifest.backends,
        requests=len(results),
        failed=failed,
        error_rate=failed / len(results) if results else None,
        modalities=tuple(modality for modality in modalities if modality.cases),
        cases=tuple(ordered),
    )


def summarise_modality(backend: str, task: Task, planned: int, results: Sequence[CoverageCase]) -> ModalityResult:
    """One row of the modality table; `results` are those of this server and task."""
    counts = Counter(result.status for result in results)
    good = [result for result in results if result.status == Status.PASS]
    tokens = _total(result.output_tokens for result in good)
    busy_ms = _total(result.e2e_ms for result in good)
    return ModalityResult(
        backend=backend,
        modality=task.value,
        status=_status(counts).value,
        planned=planned,
        cases=len(results),
        passed=counts[Status.PASS],
        failed=counts[Status.FAIL],
        unsupported=counts[Status.UNSUPPORTED],
        ttft_ms=_mean(result.ttft_ms for result in good),
        tpot_ms=_mean(result.tpot_ms for result in good),
        e2e_ms=_mean(result.e2e_ms for result in good),
        output_tokens=tokens,
        output_tokens_per_s=1000 * tokens / busy_ms if tokens is not None and busy_ms else None,
        prompt_tokens=_total(result.prompt_tokens for result in good),
        media_tokens=_total(result.media_tokens for result in good),
        input_bytes=sum(file.bytes for result in results for file in result.inputs),
        ttfa_ms=_mean(result.ttfa_ms for result in good),
        rtf=_mean(result.rtf for result in good),
        rtf_gen=_mean(result.rtf_gen for result in good),
        stalls=_total(result.stalls for result in good),
        prebuffer_ms=max((result.prebuffer_ms for result in good if result.prebuffer_ms is not None), default=None),
        audio_s=_total(result.audio_s for result in good),
    )


def _of(results: Iterable[CoverageCase], backend: str, task: Task) -> list[CoverageCase]:
    return [result for result in results if (result.backend, result.modality) == (backend, task.value)]


def _status(counts: Counter[str]) -> Status:
    if counts[Status.FAIL]:
        return Status.FAIL
    return Status.PASS if counts[Status.PASS] else Status.UNSUPPORTED


def _judge(modalities: Sequence[ModalityResult], failed: int, requests: int, max_error_rate: float) -> Verdict:
    """Exit code 1 when too many cases failed, or when something that was asked for did not work at all."""
    reasons = []
    if requests and failed / requests > max_error_rate:
        reasons.append(f"{failed} of {requests} cases failed, {100 * max_error_rate:.3g} % may")
    if without := [f"{each.backend} {each.modality} ({each.status})" for each in modalities if not each.passed]:
        reasons.append(f"nothing passed in {', '.join(without)}")
    return Verdict("errors", 1, "; ".join(reasons)) if reasons else Verdict("complete", 0)


def _total(values: Iterable[N | None]) -> N | None:
    """Their sum; None where there are none or one is not known."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return sum(known[1:], start=known[0]) if known and len(known) == len(listed) else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Over those that exist."""
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None
