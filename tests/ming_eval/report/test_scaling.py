import pytest

from ming_eval.report.scaling import curves, elasticity, find_knee, speedup
from ming_eval.results import Point
from tests.ming_eval.factories import make_point, make_summary


def curve(*rates: float | None) -> list[Point]:
    """Points at c = 1, 2, 4, ... with these tokens per second."""
    return [make_point(2**i, rate) for i, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "at"),
    [
        ((100, 200, 400, 440, 450), 4),  # doubling pays until 4
        ((100, 200, 210, 420, 430), 8),  # a dip in between is no knee: what follows pays again
        ((100, 105, 108), 1),  # saturated from the start
        ((100, 200, 400, 300), 4),  # falling is the clearest knee
        ((100, 190, 350, 640), None),  # still growing
        ((100, 110), None),  # two points show no knee
        ((100, None, 110), None),  # nor do two points and a hole
        ((100, 142, 202), None),  # just above the root of the load
        ((100, 141, 197), 1),  # just below it
    ],
)
def test_knee(rates: tuple[float | None, ...], at: int | None) -> None:
    found = find_knee(curve(*rates))
    assert (found.at.concurrency if found else None) == at


def test_elasticity_is_one_where_throughput_is_proportional_and_zero_where_it_is_flat() -> None:
    assert elasticity(make_point(2, 100), make_point(8, 400)) == pytest.approx(1.0)
    assert elasticity(make_point(2, 100), make_point(8, 100)) == pytest.approx(0.0)
    assert elasticity(make_point(2, 100), make_point(8, 200)) == pytest.approx(0.5)


def test_speedup_over_nothing_is_unknown() -> None:
    assert speedup(make_point(2, 150), make_point(1, 100)) == 1.5
    assert speedup(make_point(2, 150), make_point(1, 0.0)) is None
    assert speedup(make_point(2, None), make_point(1, 100)) is None


def test_curves_keep_the_order_of_the_backends_and_sort_the_points() -> None:
    points = [make_point(2, backend="b"), make_point(4, backend="a"), make_point(1, backend="b")]
    found = curves(make_summary(*points))
    assert {name: [p.concurrency for p in mine] for name, mine in found.items()} == {"b": [1, 2], "a": [4]}
    assert list(found) == ["b", "a"]
