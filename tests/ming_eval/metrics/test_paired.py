from __future__ import annotations

import random

import numpy as np
import pytest

from ming_eval.metrics import paired
from ming_eval.metrics.paired import Cells


def test_cells_by_hand_count() -> None:
    first = [True, True, True, False, False, True]
    second = [True, False, True, True, False, False]
    cells = Cells.of(first, second)
    assert cells == Cells(both=2, only_first=2, only_second=1, neither=1)
    assert (cells.total, cells.num_discordant) == (6, 3)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (1, 1, 1.0), (5, 0, 2 / 32), (1, 8, 2 * (1 + 9) / 512), (10, 10, 1.0)],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    assert paired.mcnemar(Cells(7, only_first, only_second, 3)) == pytest.approx(p)


@pytest.mark.slow  # for the time that the library takes to import
def test_mcnemar_agrees_with_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    rng = random.Random(4)
    for _ in range(50):
        cells = Cells(*(rng.randint(0, 60) for _ in range(4)))
        table = [[cells.both, cells.only_first], [cells.only_second, cells.neither]]
        assert paired.mcnemar(cells) == pytest.approx(tables.mcnemar(table, exact=True).pvalue)


@pytest.mark.slow
def test_mcnemar_of_many_items() -> None:
    assert paired.mcnemar(Cells(9000, 2600, 2400, 0)) == pytest.approx(0.0049, abs=2e-4)


@pytest.mark.slow  # for the time that the library takes to import
def test_paired_difference_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(5)
    first = (rng.random(300) < 0.7).astype(float)
    second = np.where(rng.random(300) < 0.2, 1 - first, first)
    found = paired.paired_difference(first.tolist(), second.tolist())
    expected = stats.ttest_rel(second, first)
    interval = expected.confidence_interval()
    assert found is not None
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_paired_difference_of_clusters_is_wider() -> None:
    first = [float(i % 20 < 10) for i in range(200)]
    second = [0.0] * 200
    alone = paired.paired_difference(first, second)
    grouped = paired.paired_difference(first, second, [i // 10 for i in range(200)])
    assert alone is not None
    assert grouped is not None
    assert alone.value == grouped.value == -0.5
    assert (grouped.low or 0) < (alone.low or 0)
    assert (grouped.p or 0) > (alone.p or 0)


def test_too_few_pairs() -> None:
    assert paired.paired_difference([], []) is None
    single = paired.paired_difference([1.0], [0.0])
    assert single is not None
    assert (single.value, single.low, single.high, single.p) == (-1.0, None, None, None)


def test_clusters_that_all_differ_alike_claim_no_certainty() -> None:
    """Nothing differs in three clusters: at most 56.1 % of others would. Six all won: the sign test says 1/32."""
    same = paired.paired_difference([1.0] * 6, [1.0] * 6, [i // 2 for i in range(6)])
    assert same is not None
    assert (same.value, same.p) == (0.0, 1.0)
    assert (same.low, same.high) == (pytest.approx(-0.561, abs=1e-3), pytest.approx(0.561, abs=1e-3))
    won = paired.paired_difference([0.0] * 12, [1.0] * 12, [i // 2 for i in range(12)])
    assert won is not None
    assert (won.low, won.high, won.p) == (pytest.approx(1 - 0.3903, abs=1e-4), 1.0, 1 / 32)


def test_two_utterances_show_nothing() -> None:
    found = paired.paired_bootstrap([(3.0, 10.0), (4.0, 10.0)], [(1.0, 10.0), (0.0, 10.0)])
    assert found is not None
    assert found.p == 0.5


@pytest.mark.slow
def test_a_paired_bootstrap_agrees_with_scipy() -> None:
    """Word error rates of two systems on the same utterances, resampled together."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(7)
    words = rng.integers(5, 30, size=120)
    errors = rng.binomial(words, 0.10), rng.binomial(words, 0.13)
    first, second = ([(float(e), float(n)) for e, n in zip(each, words, strict=True)] for each in errors)
    found = paired.paired_bootstrap(first, second)

    def gap(a: np.ndarray, b: np.ndarray, n: np.ndarray, axis: int = -1) -> np.ndarray:
        return b.sum(axis) / n.sum(axis) - a.sum(axis) / n.sum(axis)

    expected = stats.bootstrap(
        (*errors, words), gap, paired=True, vectorized=True, n_resamples=9_999, method="percentile", rng=rng
    ).confidence_interval
    assert found is not None
    assert found.value == pytest.approx(errors[1].sum() / words.sum() - errors[0].sum() / words.sum())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_paired_bootstrap_of_right_and_wrong_is_near_students_t() -> None:
    rng = np.random.default_rng(8)
    first = (rng.random(400) < 0.7).astype(float)
    second = np.where(rng.random(400) < 0.1, 1 - first, first)
    exact = paired.paired_difference(first.tolist(), second.tolist())
    drawn = paired.paired_bootstrap([(x, 1.0) for x in first], [(x, 1.0) for x in second])
    assert exact is not None
    assert drawn is not None
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.004)
    assert drawn.p == pytest.approx(exact.p, abs=0.03)


def test_a_bootstrap_draws_whole_clusters() -> None:
    first = [(float(i % 20 < 10), 1.0) for i in range(200)]
    second = [(0.0, 1.0)] * 200
    alone = paired.paired_bootstrap(first, second)
    grouped = paired.paired_bootstrap(first, second, [i // 10 for i in range(200)])
    assert alone is not None
    assert grouped is not None
    assert (grouped.low or 0) < (alone.low or 0) < -0.5
    assert paired.paired_bootstrap([], []) is None
    single = paired.paired_bootstrap(first, second, ["one"] * 200)
    assert single is not None
    assert (single.value, single.low, single.p) == (-0.5, None, None)


def test_holm_by_hand() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert paired.holm([]) == []


@pytest.mark.slow  # for the time that the library takes to import
def test_holm_agrees_with_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = random.Random(6)
    for _ in range(20):
        probabilities = [rng.random() ** 3 for _ in range(rng.randint(1, 12))]
        expected = multitest.multipletests(probabilities, method="holm")[1]
        assert paired.holm(probabilities) == pytest.approx(list(expected))


def test_planning_table() -> None:
    """2 points take about 2,000 shared items when 10 % are discordant, 1 point about 7,800."""
    assert paired.items_needed(0.02) == pytest.approx(2000, rel=0.03)
    assert paired.items_needed(0.01) == pytest.approx(7800, rel=0.01)
    assert paired.detectable_difference(paired.items_needed(0.02)) == pytest.approx(0.02, abs=1e-4)


def test_detectable_difference_never_exceeds_the_discordant_share_that_it_needs() -> None:
    assert paired.detectable_difference(0) is None
    few = paired.detectable_difference(17)
    assert few is not None
    assert few > paired.ASSUMED_DISCORDANT  # such a difference needs more discordant items than assumed
    many = paired.detectable_difference(10_000)
    assert many is not None
    assert many < 0.01
