"""Holds a load back while its server is away, so that a restart costs the requests in flight and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ming_eval.errors import TargetError
from ming_eval.types import Failure, Outage

BROKEN_CONNECTION = frozenset({Failure.CONNECT, Failure.RESET, Failure.EARLY_EOF})
"""Failures after which it is worth asking whether the server is still there."""

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_DYING_S = 0.02  # a process that is killed drops its connections some milliseconds before it stops listening

Probe = Callable[[], Awaitable[bool]]


class Breaker:
    """Knows whether the server is there. `outages` are over and on the client's clock.

    `takes_connections` is asked after a broken connection, outside any request; `takes_work` once the server is back
    after it had been away.
    """

    def __init__(self, takes_connections: Probe, takes_work: Probe, *, limit_s: float) -> None:
        self.outages: list[Outage] = []
        self._takes_connections = takes_connections
        self._takes_work = takes_work
        self._limit_s = limit_s
        self._lock = asyncio.Lock()
        self._checked_s = float("-inf")
        self._is_away = False

    @property
    def lost_s(self) -> float:
        """How long the load has been held back, in all."""
        return sum(outage.end_s - outage.start_s for outage in self.outages)

    async def pass_through(self) -> None:
        """Wait while the server is away."""
        if self._is_away:
            async with self._lock:
                pass

    async def check(self, failed_s: float) -> None:
        """A connection broke at `failed_s`: return once the server takes connections.

        Raises:
            TargetError: it does not within the limit.
        """
        async with self._lock:
            if failed_s <= self._checked_s:  # somebody has asked since
                return
            if not await self._stays():
                self._is_away = True
                try:
                    await self._wait(failed_s)
                finally:
                    self._is_away = False
            self._checked_s = time.perf_counter()

    async def _stays(self) -> bool:
        """True when connections are taken now and a moment later."""
        if not await self._takes_connections():
            return False
        await asyncio.sleep(_DYING_S)
        return await self._takes_connections()

    async def _wait(self, failed_s: float) -> None:
        pause_s = _FIRST_PAUSE_S
        while not (await self._takes_connections() and await self._takes_work()):
            if time.perf_counter() - failed_s > self._limit_s:
                raise TargetError(f"the server went away and was not back within {self._limit_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.outages.append(Outage(failed_s, time.perf_counter()))
