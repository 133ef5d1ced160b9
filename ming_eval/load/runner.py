"""Arrivals x requests x client -> exchanges: the loop that is running while latency is measured.

A task per slot, not per request; nothing but sending and receiving happens in a slot. What is made of a finished
exchange (record, files, progress) happens in one task of its own, after the slot has sent its next request.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import islice

from ming_eval.client.client import Client
from ming_eval.client.exchange import Exchange
from ming_eval.load.arrivals import Arrivals
from ming_eval.load.breaker import BROKEN_CONNECTION, Breaker
from ming_eval.load.conversations import Conversations
from ming_eval.types import Request

OnExchange = Callable[[int, int, Exchange], None]  # index, slot, what happened
ShouldStop = Callable[[float | None], bool]  # given when the next request is due, on the client's clock

_Ended = tuple[int, int, Exchange]

MOST_AHEAD_BYTES = 2**30
_LARGE_BODY_BYTES = 2**17


async def send_all(
    client: Client,
    arrivals: Arrivals,
    requests: Iterable[Request] | Bodies,
    on_exchange: OnExchange,
    *,
    should_stop: ShouldStop | None = None,
    breaker: Breaker | None = None,
) -> None:
    """Send every request when `arrivals` has it due; `on_exchange` gets each as it ends.

    All bodies are built before the first request is sent; `Bodies` were built by the caller, as many as it wanted, and
    get one more whenever a request has ended. `should_stop` is asked before each request; `breaker` holds all of them
    back, and moves what is due, while the server is away.

    When cancelled, requests in flight are given up and those that have ended still reach `on_exchange`.
    An error that `on_exchange` raises ends the run and is raised here.
    """
    bodies = requests if isinstance(requests, Bodies) else Bodies(client, requests)
    run = _Run(client, arrivals, bodies, should_stop, breaker)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run.hand_on(on_exchange))
            for slot in range(arrivals.slots):
                group.create_task(run.fill_slot(slot))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    except asyncio.CancelledError:
        run.hand_on_rest(on_exchange)
        raise


class Bodies:
    """Requests with their bodies, built before they are needed: all of them at once, or `ahead` of a long supply.

    No more than `MOST_AHEAD_BYTES` are held; where media are larger than that, the rest is built as requests end. With
    `conversations` the requests are first turns, and each turn after them is built when the one before has ended.
    """

    def __init__(
        self,
        client: Client,
        requests: Iterable[Request],
        ahead: int | None = None,
        conversations: Conversations | None = None,
    ) -> None:
        self._client = client
        self._requests = iter(requests)
        self._conversations = conversations
        self._ready: deque[tuple[Request, bytes]] = deque()
        self._num_bytes = 0
        self._digests: dict[str, str] = {}
        self._build(ahead)

    def __bool__(self) -> bool:
        """True while something is left that was built."""
        return bool(self._ready)

    def next(self) -> tuple[Request, bytes] | None:
        """The next request, None when there is none."""
        if not self._ready:
            self._build(1)
        if not self._ready:
            return None
        request, body = self._ready.popleft()
        self._num_bytes -= len(body)
        return request, body

    def following(self, exchange: Exchange) -> tuple[Request, bytes] | None:
        """The next turn of a conversation, None after the last one or outside conversations."""
        request = None if self._conversations is None else self._conversations.following(exchange)
        return None if request is None else (request, self._client.prepare(request))

    @property
    def think_s(self) -> float:
        """How long a user takes between two turns."""
        return 0.0 if self._conversations is None else self._conversations.think_s

    def digest(self, request: Request) -> str | None:
        """SHA-256 of a large body, found before the clock started: it takes milliseconds. None for a small one."""
        return self._digests.pop(request.id, None)

    def refill(self) -> None:
        """Build one more, at a moment when nothing waits for it."""
        self._build(1)

    def _build(self, count: int | None) -> None:
        for request in islice(self._requests, count):
            body = self._client.prepare(request)
            self._ready.append((request, body))
            self._num_bytes += len(body)
            if len(body) > _LARGE_BODY_BYTES:
                self._digests[request.id] = sha256(body.partition(b"\r\n\r\n")[2]).hexdigest()
            if self._num_bytes > MOST_AHEAD_BYTES:
                return


class _Run:
    """The state that the slots of one point share."""

    def __init__(
        self,
        client: Client,
        arrivals: Arrivals,
        bodies: Bodies,
        should_stop: ShouldStop | None,
        breaker: Breaker | None,
    ) -> None:
        self._client = client
        self._bodies = bodies
        self._should_stop = should_stop or (lambda _due_s: False)
        self._breaker = breaker
        self._ended: asyncio.Queue[_Ended | None] = asyncio.Queue()
        self._num_open_slots = arrivals.slots
        self._due_times_s = arrivals.due_times_s()
        self._waves = _Waves(arrivals.slots) if arrivals.in_waves else None
        self._num_started = 0
        self._start_s = time.perf_counter()

    async def fill_slot(self, slot: int) -> None:
        """Send one request after the other until there are no more."""
        while (work := self._next()) is not None:
            index, request, body, due_s = work
            if self._waves is not None:
                await self._waves.wait_for(index)
            if self._should_stop(self._intended_s(due_s)):
                self._give_up()
                break
            intended_s = await self._until_due(due_s)
            if self._should_stop(intended_s):
                self._give_up()
                break
            exchange = await self._send(index, slot, request, body, intended_s)
            while (turn := self._bodies.following(exchange)) is not None:
                assert exchange.done_s is not None
                due_s = exchange.done_s + self._bodies.think_s
                if self._should_stop(due_s):
                    break
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                exchange = await self._send(index, slot, *turn, None if intended_s is None else due_s)
            if self._waves is not None:
                self._waves.one_ended()
        self._num_open_slots -= 1
        if self._num_open_slots == 0:
            self._ended.put_nowait(None)

    async def _send(self, index: int, slot: int, request: Request, body: bytes, intended_s: float | None) -> Exchange:
        """Send one request and hand its exchange over; wait where the server turns out to be away."""
        exchange = await self._client.send(request, body, intended_s=intended_s)
        exchange.request_sha256 = self._bodies.digest(request)
        self._ended.put_nowait((index, slot, exchange))
        if self._breaker is not None and exchange.failure in BROKEN_CONNECTION:
            assert exchange.done_s is not None
            await self._breaker.check(exchange.done_s)
        return exchange

    async def hand_on(self, on_exchange: OnExchange) -> None:
        """Give every exchange away as it ends, then prepare a request in its place."""
        while (ended := await self._ended.get()) is not None:
            on_exchange(*ended)
            self._bodies.refill()

    def hand_on_rest(self, on_exchange: OnExchange) -> None:
        """Give away what has ended and was not handed on yet."""
        while not self._ended.empty():
            if (ended := self._ended.get_nowait()) is not None:
                on_exchange(*ended)

    def _next(self) -> tuple[int, Request, bytes, float | None] | None:
        if self._should_stop(None):
            return None
        try:
            due_s = next(self._due_times_s)
        except StopIteration:  # a trace or a ramp has ended
            return None
        found = self._bodies.next()
        if found is None:
            return None
        self._num_started += 1
        return self._num_started - 1, *found, due_s

    async def _until_due(self, due_s: float | None) -> float | None:
        """Sleep until a request is due and the server is there; when it was due, on the client's clock."""
        while True:
            if self._breaker is not None:
                await self._breaker.pass_through()
            intended_s = self._intended_s(due_s)  # an outage moves it
            if intended_s is None or intended_s <= time.perf_counter():
                return intended_s
            await asyncio.sleep(intended_s - time.perf_counter())

    def _intended_s(self, due_s: float | None) -> float | None:
        if due_s is None:
            return None
        return self._start_s + due_s + (self._breaker.lost_s if self._breaker is not None else 0.0)

    def _give_up(self) -> None:
        """A request that will not be sent must not hold back the wave behind it."""
        if self._waves is not None:
            self._waves.one_ended()


class _Waves:
    """Lets a request go once all requests of earlier waves have ended."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._num_ended = 0
        self._open = asyncio.Event()

    async def wait_for(self, index: int) -> None:
        while self._num_ended < index // self._size * self._size:
            await self._open.wait()

    def one_ended(self) -> None:
        self._num_ended += 1
        if self._num_ended % self._size == 0:
            self._open.set()  # wakes who waits now
            self._open = asyncio.Event()
