"""The measuring loop against a client that answers after a scripted time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ming_eval.client.exchange import Exchange
from ming_eval.errors import DataError
from ming_eval.load.arrivals import ClosedLoop
from ming_eval.load.breaker import Breaker
from ming_eval.load.runner import Bodies, send_all
from ming_eval.types import Failure, Request


class ScriptedClient:
    """Answers request i after `delays_s[i]`; keeps count of what is in flight."""

    def __init__(self, *delays_s: float) -> None:
        self.delays_s = delays_s
        self.running = 0
        self.most = 0
        self.sent: list[str] = []
        self.intended_s: list[float | None] = []
        self.num_prepared_when_first_sent: int | None = None
        self.prepared = 0

    def prepare(self, request: Request) -> bytes:
        self.prepared += 1
        return request.id.encode()

    async def send(self, request: Request, prepared: bytes, *, intended_s: float | None) -> Exchange:
        assert prepared == request.id.encode()
        if self.num_prepared_when_first_sent is None:
            self.num_prepared_when_first_sent = self.prepared
        self.sent.append(request.id)
        self.intended_s.append(intended_s)
        self.running += 1
        self.most = max(self.most, self.running)
        sent_s = time.perf_counter()
        try:
            await asyncio.sleep(self.delays_s[int(request.id)])
        finally:
            self.running -= 1
        return Exchange(request, "fake", prepared, intended_s, sent_s, done_s=time.perf_counter())


@dataclass(frozen=True)
class EveryTenth:
    """An open loop: request i is due 0.01 x i s after the start."""

    slots: int
    in_waves: bool = False

    def due_times_s(self) -> Iterator[float | None]:
        return (0.01 * i for i in itertools.count())


def requests(count: int) -> list[Request]:
    return [Request(str(i), ()) for i in range(count)]


def drive(client: Any, arrivals: Any, count: int) -> list[tuple[int, int, str]]:
    ended: list[tuple[int, int, str]] = []
    asyncio.run(
        send_all(client, arrivals, requests(count), lambda index, slot, x: ended.append((index, slot, x.request.id)))
    )
    return ended


def test_closed_loop_keeps_exactly_its_concurrency_in_flight() -> None:
    client = ScriptedClient(*[0.01] * 20)
    ended = drive(client, ClosedLoop(4), 20)
    assert client.most == 4
    assert sorted(index for index, _, _ in ended) == list(range(20))
    assert all(str(index) == request_id for index, _, request_id in ended)


def test_a_slow_request_holds_one_slot_only() -> None:
    ended = drive(ScriptedClient(0.2, *[0.01] * 5), ClosedLoop(2), 6)
    slots = {index: slot for index, slot, _ in ended}
    assert ended[-1][0] == 0  # the slow one ends last
    assert [slots[index] for index in range(1, 6)] == [1] * 5


def test_fewer_requests_than_slots() -> None:
    client = ScriptedClient(0.01, 0.01)
    assert len(drive(client, ClosedLoop(8), 2)) == 2
    assert client.most == 2


def test_bodies_are_built_before_the_first_request_is_sent() -> None:
    client = ScriptedClient(*[0.0] * 5)
    drive(client, ClosedLoop(1), 5)
    assert client.num_prepared_when_first_sent == 5


def test_due_times_are_kept_and_handed_on_as_intended_times() -> None:
    client = ScriptedClient(*[0.0] * 4)
    before_s = time.perf_counter()
    drive(client, EveryTenth(slots=2), 4)
    assert time.perf_counter() - before_s >= 0.03
    assert client.sent == ["0", "1", "2", "3"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(t for t in client.intended_s if t is not None)]
    assert gaps == pytest.approx([0.01] * 3)


def test_cancelled_run_hands_on_what_has_ended() -> None:
    ended: list[int] = []

    async def main() -> None:
        client: Any = ScriptedClient(0.0, 60.0, 0.0, 0.0)
        run = asyncio.create_task(
            send_all(client, ClosedLoop(2), requests(4), lambda index, slot, exchange: ended.append(index))
        )
        await asyncio.sleep(0.1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert ended == [0, 2, 3]


def test_a_request_that_ends_in_the_moment_of_the_cancellation_is_not_lost() -> None:
    ended: list[int] = []

    class CancelledBySecond(ScriptedClient):
        async def send(self, request: Request, prepared: bytes, *, intended_s: float | None) -> Exchange:
            exchange = await super().send(request, prepared, intended_s=intended_s)
            if request.id == "1":
                run.cancel()
            return exchange

    async def main() -> None:
        nonlocal run
        client: Any = CancelledBySecond(0.0, 0.01, 60.0)
        run = asyncio.create_task(
            send_all(client, ClosedLoop(1), requests(3), lambda index, slot, exchange: ended.append(index))
        )
        with pytest.raises(asyncio.CancelledError):
            await run

    run: asyncio.Task[None]
    asyncio.run(main())
    assert ended == [0, 1]


def test_an_error_while_recording_ends_the_run() -> None:
    client: Any = ScriptedClient(*[0.0] * 3, 60.0)

    def full_disk(index: int, slot: int, exchange: Exchange) -> None:
        raise DataError("no space left on device")

    with pytest.raises(DataError, match="no space"):
        asyncio.run(asyncio.wait_for(send_all(client, ClosedLoop(2), requests(4), full_disk), 5))


# --- stopping, supplies without an end, waves ------------------------------------------------------------------------


def endless() -> Iterator[Request]:
    return (Request(str(i), ()) for i in itertools.count())


class Patient(ScriptedClient):
    """Every request takes as long."""

    async def send(self, request: Request, prepared: bytes, *, intended_s: float | None) -> Exchange:
        self.delays_s = (*self.delays_s, self.delays_s[0])
        return await super().send(request, prepared, intended_s=intended_s)


def test_a_supply_without_an_end_is_prepared_a_little_ahead_until_it_is_enough() -> None:
    client: Any = Patient(0.001, 0.001)
    ended: list[int] = []
    asyncio.run(
        send_all(
            client,
            ClosedLoop(2),
            Bodies(client, endless(), ahead=6),
            lambda index, slot, exchange: ended.append(index),
            should_stop=lambda due_s: len(ended) >= 20,
        )
    )
    assert 20 <= len(ended) <= 22
    assert client.num_prepared_when_first_sent == 6
    assert client.prepared <= len(ended) + 6


@pytest.mark.parametrize("limit", [1, 3, 4, 5])
def test_a_stop_in_the_middle_of_a_wave_leaves_nobody_waiting(limit: int) -> None:
    client: Any = ScriptedClient(*[0.01 * (1 + i % 3) for i in range(30)])
    ended: list[int] = []
    waves = ClosedLoop(3, in_waves=True)
    run = send_all(
        client,
        waves,
        requests(30),
        lambda index, slot, exchange: ended.append(index),
        should_stop=lambda due_s: len(ended) >= limit,
    )
    asyncio.run(asyncio.wait_for(run, 60))
    assert limit <= len(ended) <= limit + 3


def test_what_is_due_after_the_end_is_not_slept_for() -> None:
    client: Any = ScriptedClient(*[0.0] * 40)
    ended: list[int] = []
    start_s = time.perf_counter()
    run = send_all(
        client,
        EveryTenth(slots=4),
        requests(40),
        lambda index, slot, exchange: ended.append(index),
        should_stop=lambda due_s: due_s is not None and due_s - start_s > 0.1,
    )
    asyncio.run(asyncio.wait_for(run, 60))
    assert len(ended) in (10, 11)


@pytest.mark.slow
def test_an_outage_moves_what_is_due() -> None:
    """The first request breaks at once and the server is away for 0.3 s: nothing is sent or due in that time."""

    async def play() -> tuple[list[float], float]:
        away_until_s = time.perf_counter() + 0.3

        async def is_back() -> bool:
            return time.perf_counter() > away_until_s

        breaker = Breaker(is_back, is_back, limit_s=5.0)
        client = BreaksFirst(*[0.0] * 6)
        target: Any = client
        await send_all(target, EveryTenth(slots=3), requests(6), lambda *_: None, breaker=breaker)
        (outage,) = breaker.outages
        intended_s = [t for t in client.intended_s if t is not None]
        return intended_s, outage.end_s

    intended_s, end_s = asyncio.run(play())
    assert len(intended_s) == 6
    assert all(time_s >= end_s for time_s in intended_s[1:])
    gaps = [later - earlier for earlier, later in itertools.pairwise(intended_s[1:])]
    assert gaps == pytest.approx([0.01] * 4)


class BreaksFirst(ScriptedClient):
    """Its first request finds a broken connection."""

    async def send(self, request: Request, prepared: bytes, *, intended_s: float | None) -> Exchange:
        exchange = await super().send(request, prepared, intended_s=intended_s)
        if request.id == "0":
            assert exchange.done_s is not None
            exchange.fail(Failure.RESET, "reset", exchange.done_s)
        return exchange
