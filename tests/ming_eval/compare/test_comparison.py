"""Systems whose difference is known: by hand, and by simulation over many record sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ming_eval.compare.comparison import Comparison, PointComparison, Verdict, compare, compare_all
from ming_eval.compare.figures import THROUGHPUT
from ming_eval.compare.system import System, systems_of
from ming_eval.errors import DataError, UsageError
from ming_eval.types import Failure, RequestRecord, TokenSource
from tests.ming_eval.compare.simulation import World, simulate
from tests.ming_eval.factories import make_backend, make_manifest, make_plan

SMALL = World(concurrencies=(1, 4), num_requests=32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def change(system: System, index: int, **values: object) -> System:
    """The system with one request of every point altered."""
    points = {
        key: [replace(record, **values) if record.index == index else record for record in records]  # type: ignore[arg-type]
        for key, records in system.points.items()
    }
    return replace(system, points=points)


def alter(system: System, **values: object) -> System:
    """The system with every request altered."""
    points: dict[object, Sequence[RequestRecord]] = {
        key: [replace(record, **values) for record in records]  # type: ignore[arg-type]
        for key, records in system.points.items()
    }
    return replace(system, points=points)  # type: ignore[arg-type]


def with_settings(system: System, **values: object) -> System:
    return replace(system, manifest=replace(system.manifest, settings={**system.manifest.settings, **values}))


def figure(point: PointComparison, name: str) -> float:
    (row,) = [row for row in point.figures if row.figure == name]
    assert row.effect is not None
    return row.effect.ratio


def test_a_run_that_ended_before_its_second_backend_says_so() -> None:
    plan = make_plan()
    records = [record for records in simulate(SMALL, rng()).points.values() for record in records]
    with pytest.raises(DataError, match="holds no measured request of a load at b: nothing to compare"):
        systems_of(
            replace(make_manifest(plan, make_backend("a")), backends=(make_backend("a"), make_backend("b"))), records
        )


# --- figures by hand ---------------------------------------------------------------------------------------------


def test_a_system_twice_as_slow_in_everything() -> None:
    """The same requests, each with doubled times: every ratio is 2 (or 1/2) and nothing is left to chance."""
    first, second = simulate(SMALL, rng()), simulate(SMALL, rng(), name="b", slowdown=2.0)
    found = compare(first, second)
    assert found.throughput is not None
    assert (found.throughput.ratio, found.throughput.high) == pytest.approx((0.5, 0.5))
    assert (found.verdict, found.differences) == (Verdict.WORSE, ())
    for point in found.points:
        assert figure(point, THROUGHPUT) == pytest.approx(0.5)
        for name in ("ttft_ms.p50", "ttft_ms.p99", "tpot_ms.mean", "itl_ms.p99", "e2e_ms.p50"):
            assert figure(point, name) == pytest.approx(2.0)
        assert {row.verdict for row in point.figures} == {Verdict.WORSE}


def test_a_system_against_its_own_records_shows_no_difference() -> None:
    first, second = simulate(SMALL, rng()), simulate(SMALL, rng(), name="b")
    found = compare(first, second)
    assert found.verdict is Verdict.NO_DIFFERENCE
    assert found.throughput is not None
    assert found.throughput.ratio == pytest.approx(1.0)


def test_throughput_of_a_closed_loop_by_hand() -> None:
    """The four slots of the point at c=4 hold 32 requests of 32 tokens: 1,024 tokens over a quarter of all times."""
    system = simulate(SMALL, rng())
    found = compare(system, replace(simulate(SMALL, rng()), label="b"))
    point = found.points[1]
    (row,) = [row for row in point.figures if row.figure == THROUGHPUT]
    records = [record for key, each in system.points.items() if key.concurrency == 4 for record in each]
    assert row.first == pytest.approx(32 * 32 / sum((r.done_s - r.sent_s) / 4 for r in records))


def open_loop(system: System, e2e_s: float) -> System:
    """The system with a request due each second, which ends after `e2e_s`."""
    points = {
        key: [
            replace(record, intended_s=due_s, sent_s=due_s, done_s=due_s + e2e_s, last_output_s=due_s + e2e_s)
            for due_s, record in zip(map(float, range(len(records))), records, strict=True)
        ]
        for key, records in system.points.items()
    }
    return replace(system, points=points)


def test_an_open_loop_is_compared_by_its_completions() -> None:
    """32 requests, one a second: the slower system ends each one half a second later, and all of them in 32.5 s."""
    system = simulate(World(concurrencies=(1,), num_requests=32), rng())
    found = compare(open_loop(system, 1.0), replace(open_loop(system, 1.5), label="b"))
    (point,) = found.points
    assert figure(point, THROUGHPUT) == pytest.approx(32 / 32.5)
    assert figure(point, "e2e_ms.p50") == pytest.approx(1.5)


def test_failed_requests_take_time_and_bring_no_tokens() -> None:
    first, second = simulate(SMALL, rng()), simulate(SMALL, rng(), name="b")
    broken = change(second, 3, failure=Failure.RESET, num_output_tokens=None)
    found = compare(first, broken)
    assert figure(found.points[0], THROUGHPUT) == pytest.approx(31 / 32)
    failures = found.points[0].failures
    assert (failures.only_first, failures.only_second, failures.both, failures.p) == (0, 1, 0, 1.0)


def test_many_failures_of_one_system_are_a_difference() -> None:
    first, second = simulate(SMALL, rng()), simulate(SMALL, rng(), name="b")
    for index in range(16):
        second = change(second, index, failure=Failure.HTTP_5XX)
    failures = compare(first, second).points[0].failures
    assert failures.p == pytest.approx(2 / 2**16)
    assert failures.verdict is Verdict.WORSE


# --- unlike things -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"seed": 1}, {"max_tokens": 128}, {"ignore_eos": False}, {"prompts": "other"}])
def test_other_prompts_or_lengths_are_refused(setting: dict[str, object]) -> None:
    first, second = simulate(SMALL, rng()), with_settings(simulate(SMALL, rng(), name="b"), **setting)
    with pytest.raises(DataError, match=next(iter(setting))):
        compare(first, second)


def test_other_token_sources_are_refused_and_can_be_forced() -> None:
    first = simulate(SMALL, rng())
    second = alter(simulate(SMALL, rng(), name="b"), token_source=TokenSource.EVENTS)
    with pytest.raises(DataError, match="token source: usage against events"):
        compare(first, second)
    found = compare(first, second, force=True)
    assert [(d.what, d.forbids) for d in found.differences] == [("token source", True)]


@pytest.mark.filterwarnings("error")
def test_a_server_that_answered_nothing_counts_in_no_other_way() -> None:
    """It lacks the route, say: there is nothing to compare but the failures, and no verdict."""
    dead = alter(
        simulate(SMALL, rng(), name="b"),
        failure=Failure.HTTP_4XX,
        token_source=None,
        num_output_tokens=None,
        num_prompt_tokens=None,
    )
    found = compare(simulate(SMALL, rng()), dead)
    assert "token source" not in {difference.what for difference in found.differences}
    assert (found.throughput, found.verdict) == (None, None)


def test_other_request_bytes_are_refused_unless_model_or_dialect_explain_them() -> None:
    first = alter(simulate(SMALL, rng()), request_sha256="1")
    second = change(alter(simulate(SMALL, rng(), name="b"), request_sha256="1"), 0, request_sha256="2")
    with pytest.raises(DataError, match="request bodies: 64 requests against 2 with other bytes"):
        compare(first, second)
    other_model = replace(second, backend=replace(second.backend, model="other"))
    assert [difference.what for difference in compare(first, other_model).differences] == ["model"]


def test_what_a_reader_must_know_is_listed() -> None:
    first, second = simulate(SMALL, rng()), simulate(SMALL, rng(), name="b")
    second = alter(second, num_cached_tokens=8, num_prompt_tokens=12, num_output_tokens=40)
    second = with_settings(second, warmup_waves=0)
    second = replace(second, backend=replace(second.backend, model="other-model"))
    found = {d.what: (d.first, d.second) for d in compare(first, second).differences}
    assert found == {
        "warmup_waves": ("1", "0"),
        "prompt tokens per request": ("10.0", "12.0"),
        "output tokens per request": ("32.0", "40.0"),
        "prompt tokens from the cache": ("0.0%", "66.7%"),
        "model": ("some-model", "other-model"),
    }


def test_only_points_of_both_are_compared() -> None:
    first = simulate(SMALL, rng())
    second = simulate(World(concurrencies=(4, 8), num_requests=32), rng(1), name="b")
    found = compare(first, second)
    assert [point.concurrency for point in found.points] == [4]
    assert ("points that the other has not", "c=1", "c=8") in [(d.what, d.first, d.second) for d in found.differences]


def test_requests_of_one_run_only_are_left_out_and_counted() -> None:
    first, second = simulate(SMALL, rng()), simulate(SMALL, rng(), name="b")
    cut = replace(second, points={key: list(records)[:20] for key, records in second.points.items()})
    found = compare(first, cut)
    assert [(point.pairs, point.unpaired) for point in found.points] == [(20, 12), (20, 12)]


def test_nothing_in_common_is_an_error() -> None:
    first, second = simulate(World(concurrencies=(1,)), rng()), simulate(World(concurrencies=(2,)), rng(), name="b")
    with pytest.raises(DataError, match="share no request"):
        compare(first, second)


def test_one_system_is_no_comparison() -> None:
    with pytest.raises(UsageError, match="two systems"):
        compare_all([simulate(SMALL, rng())])


def test_every_further_system_is_compared_with_the_first() -> None:
    systems = [simulate(SMALL, rng(seed), name=name) for seed, name in enumerate("abc")]
    assert [(found.first, found.second) for found in compare_all(systems)] == [("a", "b"), ("a", "c")]


# --- rates of error ----------------------------------------------------------------------------------------------


def share_called_different(num_sets: int, world: World, slowdown: float, seed: int) -> float:
    source = rng(seed)
    verdicts = [_throughput_of(world, slowdown, source).verdict for _ in range(num_sets)]
    return sum(verdict is not Verdict.NO_DIFFERENCE for verdict in verdicts) / num_sets


def _throughput_of(world: World, slowdown: float, source: np.random.Generator) -> Comparison:
    first, second = simulate(world, source), simulate(world, source, name="b", slowdown=slowdown)
    return compare(first, second, names=[THROUGHPUT])


@pytest.mark.slow
def test_a_system_against_itself_is_called_different_in_at_most_6_5_percent_of_1000_record_sets() -> None:
    assert share_called_different(1_000, World(), 1.0, seed=1) <= 0.065


@pytest.mark.slow
def test_five_percent_slower_is_found_in_at_least_90_percent_of_1000_record_sets() -> None:
    assert share_called_different(1_000, World(), 1.05, seed=2) >= 0.90


@pytest.mark.slow
def test_noise_that_neighbours_share_does_not_pass_for_a_difference() -> None:
    """256 requests in 32 groups of 8 that slow down together; drawn one by one, a third would be called different.

    Of 150 pairs of like systems, 5 % each, at most 8 % are called different in 95 of 100 tries.
    """
    world = World(cv=0.05, shared_cv=0.10, num_requests=256)
    assert share_called_different(150, world, 1.0, seed=3) <= 0.08
