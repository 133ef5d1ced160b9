"""Names of systems that share one, and runs laid over each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ming_eval.report.overlay import SweepRun, overlay, unique_labels
from tests.ming_eval.factories import make_backend, make_manifest, make_plan, make_point, make_record, make_summary


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([("a", "T1-sweep-a"), ("b", "T2-sweep-b")], ["a", "b"]),
        ([("a", "T1-sweep-a"), ("a", "T2-sweep-a"), ("b", "T2-sweep-a")], ["a@T1", "a@T2", "b"]),
        ([("a", "T1-sweep-a"), ("a", "T1-sweep-a-2")], ["a@T1-sweep-a", "a@T1-sweep-a-2"]),
    ],
)
def test_labels_are_as_short_as_they_can_be(names: list[tuple[str, str]], labels: list[str]) -> None:
    assert unique_labels(names) == labels


def sweep(run: str, rate: float) -> SweepRun:
    manifest = replace(make_manifest(make_plan(), make_backend("a")), run=run)
    return SweepRun(manifest, make_summary(make_point(1, rate), run=run), [make_record()])


def test_points_and_requests_of_one_backend_in_two_runs_stay_apart() -> None:
    found = overlay([sweep("T1-sweep-a", 100.0), sweep("T2-sweep-a", 200.0)])
    assert [(point.backend, point.output_tokens_per_s) for point in found.summary.points] == [
        ("a@T1", 100),
        ("a@T2", 200),
    ]
    assert [record.backend for record in found.records] == ["a@T1", "a@T2"]
    assert [backend.name for backend in found.summary.backends] == ["a@T1", "a@T2"]
    assert found.summary.requests == 200


def test_one_run_stays_as_it_is() -> None:
    run = sweep("T1-sweep-a", 100.0)
    assert overlay([run]) is run
