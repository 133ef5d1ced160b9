"""Watches the client while it measures: processor time, event-loop lag, garbage collector, receive stamps."""

from __future__ import annotations

import asyncio
import gc
import time
from types import TracebackType
from typing import Self

from ming_eval.client.stamps import ReceiveStamps
from ming_eval.metrics.stats import percentile
from ming_eval.types import ClientHealth

_TICK_S = 0.01
_TICKS_PER_OFFSET = 100


class Monitor:
    """An async context manager around what is measured; `health` tells how the client fared, from then until now.

    It wakes the loop 100 times a second, which takes about 0.2 % of a core.
    """

    def __init__(self, stamps: ReceiveStamps) -> None:
        self._stamps = stamps
        self._lags_s: list[float] = []
        self._gc_pauses_s: list[float] = []
        self._gc_started_s = 0.0
        self._started_s = 0.0
        self._cpu_started_s = 0.0
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._stamps.restart()
        gc.callbacks.append(self._on_gc)
        self._started_s, self._cpu_started_s = time.perf_counter(), time.process_time()
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._ticker is not None
        self._ticker.cancel()
        gc.callbacks.remove(self._on_gc)

    def health(self) -> ClientHealth:
        """Figures since the beginning."""
        cpu_s, wall_s = time.process_time() - self._cpu_started_s, time.perf_counter() - self._started_s
        self._stamps.sample_offset()
        receive_lags_s = self._stamps.lags_s()
        return ClientHealth(
            wall_s=wall_s,
            cpu_s=cpu_s,
            loop_lag_s=percentile(self._lags_s, 99),
            num_loop_samples=len(self._lags_s),
            receive_lag_s=percentile(receive_lags_s, 99),
            num_receive_stamps=len(receive_lags_s),
            clock_drift_s=self._stamps.drift_s if receive_lags_s else None,
            gc_pause_max_s=max(self._gc_pauses_s, default=0.0),
            gc_pauses_s=sum(self._gc_pauses_s),
        )

    async def _tick(self) -> None:
        due_s = time.perf_counter() + _TICK_S
        while True:
            await asyncio.sleep(due_s - time.perf_counter())
            now_s = time.perf_counter()
            self._lags_s.append(max(0.0, now_s - due_s))
            if len(self._lags_s) % _TICKS_PER_OFFSET == 0:
                self._stamps.sample_offset()
            due_s += _TICK_S  # not from now: a stall counts once for every tick that was due in it

    def _on_gc(self, phase: str, _info: dict[str, int]) -> None:
        now_s = time.perf_counter()
        if phase == "start":
            self._gc_started_s = now_s
        else:
            self._gc_pauses_s.append(now_s - self._gc_started_s)
