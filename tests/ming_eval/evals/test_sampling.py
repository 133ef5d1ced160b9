"""Which items and which order: the same everywhere, smaller samples inside larger ones."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.errors import UsageError
from ming_eval.evals.ordering import OptionOrder, orders, presented
from ming_eval.evals.sampling import proportional, select
from tests.ming_eval.evals.builders import CHOICES, make_item

ITEMS = [make_item(id=f"q{i}", group={"shelf": f"s{i % 3}"}) for i in range(60)]
# The two smallest SHA-256 digests of `[7,"q<i>"]` among i of equal remainder by 3.
CHOSEN_OF_SEED_7 = ["q3", "q19", "q21", "q25", "q26", "q29"]


def ids(strata: str | None = "shelf", **options: int | None) -> list[str]:
    plain = {"per_group": None, "limit": None, "seed": 7}
    return [item.id for item in select(ITEMS, strata=strata, **(plain | options))]


@pytest.mark.slow
def test_a_seed_selects_the_same_ids_everywhere() -> None:
    """Another interpreter must find the same, whatever its hash seed."""
    assert ids(per_group=2) == CHOSEN_OF_SEED_7
    code = "from tests.ming_eval.evals.test_sampling import ids; print(ids(per_group=2))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "42"}
    )
    assert done.stdout.strip() == str(CHOSEN_OF_SEED_7)


def test_ten_per_group_contain_five_per_group() -> None:
    five, ten = set(ids(per_group=5)), set(ids(per_group=10))
    assert len(five) == 15
    assert five < ten


@pytest.mark.parametrize("strata", ["shelf", None])
def test_larger_limits_contain_smaller_ones(strata: str | None) -> None:
    samples = [set(ids(strata, limit=limit)) for limit in range(1, 61)]
    assert [len(sample) for sample in samples] == list(range(1, 61))
    assert all(small < large for small, large in pairwise(samples))


def test_another_seed_selects_others() -> None:
    assert ids(per_group=5) != ids(per_group=5, seed=8)


def test_the_order_of_the_data_stays() -> None:
    numbers = [int(name[1:]) for name in ids(per_group=5)]
    assert numbers == sorted(numbers)


def test_everything_without_options_and_a_small_stratum_whole() -> None:
    assert len(ids()) == 60
    assert len(ids(per_group=1000)) == 60


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="--limit"):
        ids(per_group=1, limit=1)
    with pytest.raises(UsageError, match="no strata"):
        ids(None, per_group=1)


def test_places_in_proportion() -> None:
    assert proportional({"a": 60, "b": 30, "c": 10}, 10) == {"a": 6, "b": 3, "c": 1}
    assert proportional({"a": 2, "b": 2}, 10) == {"a": 2, "b": 2}


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 50), min_size=1), st.integers(0, 200))
def test_adding_a_place_never_takes_one_away(sizes: dict[str, int], total: int) -> None:
    fewer, more = proportional(sizes, total), proportional(sizes, total + 1)
    assert sum(fewer.values()) == min(total, sum(sizes.values()))
    assert all(fewer[name] <= more[name] <= sizes[name] for name in sizes)


# --- order of options --------------------------------------------------------------------------------------------


def test_original_order() -> None:
    assert orders(make_item(), OptionOrder.ORIGINAL, 0) == [(0, 1, 2, 3)]


def test_shuffled_order_depends_on_item_and_seed_alone() -> None:
    (order,) = orders(make_item(id="a"), OptionOrder.SHUFFLED, 1)
    assert sorted(order) == [0, 1, 2, 3]
    assert orders(make_item(id="a", question="other"), OptionOrder.SHUFFLED, 1) == [order]
    several = {orders(make_item(id=f"i{i}"), OptionOrder.SHUFFLED, 1)[0] for i in range(50)}
    assert len(several) > 10


def test_rotations() -> None:
    assert orders(make_item(choices=("x", "y", "z")), OptionOrder.CYCLIC, 0) == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert orders(make_item(choices=()), OptionOrder.CYCLIC, 0) == [()]


def test_the_answer_moves_with_its_choice() -> None:
    shown = presented(make_item(), (2, 0, 3, 1))
    assert shown.choices == ("Berries", "Apples", "Nuts", "Pears")
    assert shown.answer == 0
    for order in orders(make_item(), OptionOrder.CYCLIC, 0):
        item = presented(make_item(), order)
        assert isinstance(item.answer, int)
        assert item.choices[item.answer] == CHOICES[2]
