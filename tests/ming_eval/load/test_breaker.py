"""The outage circuit-breaker against a server that is there or not as the test says."""

from __future__ import annotations

import asyncio
import time

import pytest

from ming_eval.errors import TargetError
from ming_eval.load.breaker import Breaker


class FakeServer:
    """Takes connections, and then work, from given times on."""

    def __init__(self, connects_s: float = 0.0, works_s: float = 0.0) -> None:
        self.started_s = time.perf_counter()
        self.connects_s, self.works_s = connects_s, works_s
        self.num_asked = 0

    async def takes_connections(self) -> bool:
        self.num_asked += 1
        return time.perf_counter() - self.started_s >= self.connects_s

    async def takes_work(self) -> bool:
        return time.perf_counter() - self.started_s >= self.works_s

    def breaker(self, limit_s: float = 5.0) -> Breaker:
        return Breaker(self.takes_connections, self.takes_work, limit_s=limit_s)


def test_a_lone_broken_connection_is_no_outage() -> None:
    async def play() -> Breaker:
        breaker = FakeServer().breaker()
        await breaker.check(time.perf_counter())
        return breaker

    breaker = asyncio.run(play())
    assert (breaker.outages, breaker.lost_s) == ([], 0)


def test_a_server_that_still_listens_while_it_dies_is_away() -> None:
    """What was sent into the last milliseconds of its socket would be lost on top of what was in flight."""

    async def play() -> Breaker:
        answers = iter((True, False, False, True))

        async def takes_connections() -> bool:
            return next(answers)

        async def takes_work() -> bool:
            return True

        breaker = Breaker(takes_connections, takes_work, limit_s=5.0)
        await breaker.check(time.perf_counter())
        return breaker

    assert len(asyncio.run(play()).outages) == 1


@pytest.mark.slow
def test_an_outage_lasts_from_the_failure_until_the_server_takes_work() -> None:
    async def play() -> tuple[Breaker, float, float]:
        server = FakeServer(connects_s=0.1, works_s=0.3)
        breaker = server.breaker()
        await breaker.check(server.started_s)
        return breaker, server.started_s, time.perf_counter()

    breaker, started_s, ended_s = asyncio.run(play())
    (outage,) = breaker.outages
    assert outage.start_s == started_s
    assert started_s + 0.3 <= outage.end_s <= ended_s
    assert breaker.lost_s == outage.end_s - outage.start_s


@pytest.mark.slow
def test_everybody_is_held_back_and_one_asks_for_all() -> None:
    async def play() -> tuple[list[float], float, int]:
        server = FakeServer(connects_s=0.3)
        breaker = server.breaker()
        failed_s = time.perf_counter()
        passed: list[float] = []

        async def user() -> None:
            await breaker.check(failed_s)
            passed.append(time.perf_counter())

        async def latecomer() -> None:
            await asyncio.sleep(0.05)
            await breaker.pass_through()
            passed.append(time.perf_counter())

        await asyncio.gather(*(user() for _ in range(50)), latecomer())
        return passed, server.started_s, server.num_asked

    passed, started_s, num_asked = asyncio.run(play())
    assert len(passed) == 51
    assert min(passed) >= started_s + 0.3
    assert num_asked < 20


@pytest.mark.slow
def test_a_server_that_does_not_come_back_ends_the_run() -> None:
    async def play() -> None:
        server = FakeServer(connects_s=60.0)
        await server.breaker(limit_s=0.2).check(server.started_s)

    with pytest.raises(TargetError, match=r"not back within 0\.2 s"):
        asyncio.run(play())
