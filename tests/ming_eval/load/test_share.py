"""Which part of a load one process makes."""

from __future__ import annotations

from itertools import islice, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ming_eval.errors import UsageError
from ming_eval.load.arrivals import ClosedLoop, OpenLoop, Ramp
from ming_eval.load.shaping import parse_workers
from ming_eval.load.share import Share, Sliced

COUNTS = st.integers(1, 9)


@given(count=COUNTS, slots=st.integers(1, 40), total=st.integers(0, 200))
def test_every_request_and_every_slot_belongs_to_one_process(count: int, slots: int, total: int) -> None:
    shares = [Share(index, count) for index in range(count)]
    requests = [share.take(range(total), slots) for share in shares]
    assert sorted(i for mine in requests for i in mine) == list(range(total))
    own = [[share.slot(slot) for slot in range(share.num_slots(slots))] for share in shares]
    assert sorted(slot for mine in own for slot in mine) == list(range(slots))
    for mine, share in zip(requests, shares, strict=True):  # a process without a slot has nothing to send
        assert bool(mine) <= bool(share.num_slots(slots))


@given(count=COUNTS, slots=st.integers(1, 40))
def test_work_is_in_proportion_to_slots(count: int, slots: int) -> None:
    for index in range(count):
        share = Share(index, count)
        assert len(share.take(range(7 * slots), slots)) == 7 * share.num_slots(slots)


@pytest.mark.parametrize("whole", [OpenLoop(5.0, 8, seed=3, skip=2), Ramp(1.0, 9.0, 4.0, 3)])
def test_the_parts_of_a_schedule_are_the_schedule(whole: OpenLoop | Ramp) -> None:
    times_s = list(islice(whole.due_times_s(), 18))
    parts = [Sliced(whole, Share(index, 3)) for index in range(3)]
    found = [list(takewhile(lambda time_s: time_s <= times_s[-1], part.due_times_s())) for part in parts]
    assert sorted(time_s for mine in found for time_s in mine) == times_s
    assert sum(part.slots for part in parts) == whole.slots


def test_a_closed_loop_is_shared_by_its_slots() -> None:
    assert [Sliced(ClosedLoop(5), Share(index, 3)).slots for index in range(3)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4", (4, None)),
        ("ray", (None, "ray")),
        ("ray://head:10001", (None, "ray://head:10001")),
        ("8@ray://head:10001", (8, "ray://head:10001")),
        ("2@ray", (2, "ray")),
    ],
)
def test_workers_as_typed(text: str, found: tuple[int | None, str | None]) -> None:
    assert parse_workers(text) == found


@pytest.mark.parametrize("text", ["", "0", "-1", "4@", "@ray", "many", "4ray", "ray:", "2000", "http://head"])
def test_workers_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="bad --workers"):
        parse_workers(text)
