"""Who gets in: free places, the queue, prompt tokens, and when to come back."""

from __future__ import annotations

import pytest

from engine.errors import InvalidRequest, Overloaded
from engine.server.admission import DrainRate, QueueLimits, QueueLoad, admit, check_room

LIMITS = QueueLimits(num_running=4, num_waiting=2, num_tokens=100)


def load(running: int = 0, waiting: int = 0, unseen: int = 0, tokens: int = 0) -> QueueLoad:
    return QueueLoad(running, waiting, unseen, tokens)


class Clock:
    """Time that stands still unless the test moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("state", "num_new", "is_admitted"),
    [
        (load(), 6, True),
        (load(running=4), 2, True),
        (load(running=4), 3, False),
        (load(running=4, waiting=2), 1, False),
        (load(running=3, waiting=2), 1, False),  # a free place that those who wait could not use
        (load(unseen=6), 1, False),  # a burst before the engine has said anything
        (load(running=2, unseen=2), 2, True),
        (load(running=9), 1, True),
    ],
)
def test_queue(state: QueueLoad, num_new: int, is_admitted: bool) -> None:
    if is_admitted:
        admit(num_new, 1, state, LIMITS, DrainRate())
    else:
        with pytest.raises(Overloaded):
            admit(num_new, 1, state, LIMITS, DrainRate())


def test_tokens_count_only_when_others_wait() -> None:
    admit(1, 500, load(), LIMITS, DrainRate())
    admit(1, 40, load(tokens=60), LIMITS, DrainRate())
    with pytest.raises(Overloaded):
        admit(1, 41, load(tokens=60), LIMITS, DrainRate())


def test_more_than_an_idle_server_takes_is_no_matter_of_waiting() -> None:
    with pytest.raises(InvalidRequest, match="at most 6"):
        admit(7, 1, load(), LIMITS, DrainRate())


def test_retry_after_is_the_time_the_queue_takes() -> None:
    clock = Clock()
    drain = DrainRate(clock)
    assert drain.retry_after_s(50) == 1  # nothing is known yet
    for clock.now_s in (2.0, 4.0, 6.0, 8.0):
        drain.note()
    # four left in the eight seconds until now
    assert drain.retry_after_s(5) == 10
    assert drain.retry_after_s(0) == 1
    assert drain.retry_after_s(1000) == 60


def test_idle_time_says_nothing_about_the_queue() -> None:
    clock = Clock()
    drain = DrainRate(clock)
    drain.note()
    clock.now_s = 3600.0
    drain.restart()
    clock.now_s += 1.0
    assert drain.retry_after_s(4) == 4  # none has left yet: as if one did now
    drain.note()
    drain.note()
    assert drain.retry_after_s(4) == 2


def test_only_the_last_departures_count() -> None:
    clock = Clock()
    drain = DrainRate(clock)
    for _ in range(64):  # one a second, then ten a second
        clock.now_s += 1.0
        drain.note()
    for _ in range(128):
        clock.now_s += 0.1
        drain.note()
    assert drain.retry_after_s(100) == 10


def test_requests_in_preparation_count_at_the_door() -> None:
    check_room(5, load(), LIMITS, DrainRate())
    with pytest.raises(Overloaded):
        check_room(6, load(), LIMITS, DrainRate())
