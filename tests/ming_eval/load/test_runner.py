"""The measuring loop against a client that answers after a scripted time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ming_eval.client.exchange import Exchange
from ming_eval.errors import DataError
from ming_eval.load.arrivals import ClosedLoop
from ming_eval.load.runner import frozen_garbage, send_all
from ming_eval.types import Request


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


def test_garbage_is_frozen_inside_and_thawed_after() -> None:
    with frozen_garbage():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
