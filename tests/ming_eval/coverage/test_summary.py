"""Modalities, error share and verdict from hand-made cases."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from ming_eval.coverage.cases import load_cases
from ming_eval.coverage.plan import CoveragePlan
from ming_eval.coverage.summary import summarise_coverage, summarise_modality
from ming_eval.results import CoverageCase, CoverageSummary, InputFile, Verdict
from ming_eval.types import Task
from tests.ming_eval.factories import make_backend, make_manifest, make_plan

FILE = InputFile("shapes.png", "image", "image/png", 1000, 320, 240, None)


def case(modality: str = "I2T", status: str = "pass", backend: str = "a", **values: Any) -> CoverageCase:
    plain: dict[str, Any] = {
        "reason": None if status == "pass" else "because",
        "prompt": "?",
        "inputs": () if modality.startswith("T") else (FILE,),
        "failure": None,
        "http_status": 200,
        "finish_reason": "stop",
        "ttft_ms": 100.0,
        "tpot_ms": 10.0,
        "e2e_ms": 500.0,
        "output_tokens": 40,
        "token_source": "usage",
        "output_tokens_per_s": 80.0,
        "prompt_tokens": 90,
        "cached_tokens": 0,
        "control_prompt_tokens": 10,
        "media_tokens": 80,
        "output": "yes",
        "mentions": (),
        "mentioned": (),
    }
    return CoverageCase(backend=backend, modality=modality, id="x", status=status, **(plain | values))


def summary(
    *results: CoverageCase,
    modalities: tuple[Task, ...] = (Task.T2T, Task.I2T),
    backends: tuple[str, ...] = ("a",),
    cut_short: Verdict | None = None,
) -> CoverageSummary:
    plan = CoveragePlan(modalities, 1, None, 0.05)
    manifest = replace(make_manifest(make_plan(), *map(make_backend, backends)), settings=asdict(plan))
    return summarise_coverage(manifest, load_cases(), results, cut_short)


def test_a_modality_by_hand() -> None:
    """Means of times and sums of counts over the two that passed; rate (40 + 20) tokens in 1 s; media of all four."""
    row = summarise_modality(
        "a",
        Task.I2T,
        5,
        [
            case(ttft_ms=100.0, e2e_ms=500.0, output_tokens=40, tpot_ms=None),
            case(ttft_ms=300.0, e2e_ms=500.0, output_tokens=20, tpot_ms=8.0),
            case(status="fail", ttft_ms=9000.0),
            case(status="unsupported", ttft_ms=None),
        ],
    )
    assert (row.status, row.planned, row.cases, row.passed, row.failed, row.unsupported) == ("fail", 5, 4, 2, 1, 1)
    assert (row.ttft_ms, row.tpot_ms, row.e2e_ms) == (200.0, 8.0, 500.0)
    assert (row.output_tokens, row.output_tokens_per_s) == (60, 60.0)
    assert (row.prompt_tokens, row.media_tokens, row.input_bytes) == (180, 160, 4000)
    assert (row.ttfa_ms, row.rtf, row.stalls, row.audio_s) == (None, None, None, None)


def test_speech_of_a_modality_by_hand() -> None:
    spoken = [
        case("T2S", ttfa_ms=100.0, rtf=0.5, rtf_gen=0.4, stalls=2, prebuffer_ms=30.0, audio_s=1.5),
        case("T2S", ttfa_ms=200.0, rtf=0.7, rtf_gen=None, stalls=1, prebuffer_ms=10.0, audio_s=0.5),
    ]
    row = summarise_modality("a", Task.T2S, 2, spoken)
    assert (row.ttfa_ms, row.rtf, row.rtf_gen) == (150.0, 0.6, 0.4)
    assert (row.stalls, row.prebuffer_ms, row.audio_s) == (3, 30.0, 2.0)


def test_an_unknown_count_makes_the_sum_unknown_not_smaller() -> None:
    row = summarise_modality("a", Task.I2T, 2, [case(), case(output_tokens=None, media_tokens=None)])
    assert (row.output_tokens, row.output_tokens_per_s, row.media_tokens) == (None, None, None)
    nothing = summarise_modality("a", Task.I2T, 1, [case(status="fail")])
    assert (nothing.ttft_ms, nothing.output_tokens, nothing.output_tokens_per_s) == (None, None, None)


def test_status_of_a_modality() -> None:
    def status(*statuses: str) -> str:
        return summarise_modality("a", Task.I2T, 4, [case(status=each) for each in statuses]).status

    assert status("pass", "pass") == "pass"
    assert status("pass", "unsupported") == "pass"
    assert status("unsupported", "unsupported") == "unsupported"
    assert status("pass", "unsupported", "fail") == "fail"


def test_verdict_complete() -> None:
    found = summary(case("T2T"), case("I2T"), case("I2T", "unsupported"))
    assert found.verdict == Verdict("complete", 0)
    assert (found.requests, found.failed, found.error_rate, found.partial) == (3, 0, 0.0, False)


def test_too_many_failed_cases_are_exit_code_1() -> None:
    found = summary(case("T2T"), case("I2T"), case("I2T", "fail"), case("I2T"))
    assert found.verdict == Verdict("errors", 1, "1 of 4 cases failed, 5 % may")
    assert (found.requests, found.failed, found.error_rate) == (4, 1, 0.25)


def test_few_failed_cases_are_allowed() -> None:
    assert summary(case("T2T"), *[case("I2T")] * 19, case("I2T", "fail")).verdict.exit_code == 0


def test_a_modality_without_a_pass_is_exit_code_1_even_when_nothing_failed() -> None:
    found = summary(case("T2T"), case("I2T", "unsupported"))
    assert found.verdict == Verdict("errors", 1, "nothing passed in a I2T (unsupported)")


def test_every_server_must_pass_and_rows_come_server_by_server() -> None:
    ended = [case("T2T"), case("T2T", backend="b"), case("I2T"), case("I2T", "fail", backend="b")]
    found = summary(*ended, backends=("b", "a"))
    assert [(each.backend, each.modality) for each in found.cases] == [
        ("b", "T2T"),
        ("b", "I2T"),
        ("a", "T2T"),
        ("a", "I2T"),
    ]
    assert [(row.backend, row.modality, row.status) for row in found.modalities] == [
        ("b", "T2T", "pass"),
        ("b", "I2T", "fail"),
        ("a", "T2T", "pass"),
        ("a", "I2T", "pass"),
    ]
    assert found.verdict.reason == "1 of 4 cases failed, 5 % may; nothing passed in b I2T (fail)"


def test_a_run_cut_short_shows_what_there_was() -> None:
    interrupted = Verdict("interrupted", 130, "interrupted before the end")
    found = summary(case("T2T"), cut_short=interrupted)
    assert (found.partial, found.verdict) == (True, interrupted)
    assert [(row.modality, row.cases, row.planned) for row in found.modalities] == [("T2T", 1, 3)]
