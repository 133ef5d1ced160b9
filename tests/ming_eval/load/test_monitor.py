"""What the client sees of itself."""

from __future__ import annotations

import asyncio
import gc
import time

from ming_eval.client.stamps import ReceiveStamps
from ming_eval.load.monitor import Monitor
from ming_eval.types import ClientHealth


def watch(block_s: float, *, times: int) -> ClientHealth:
    """The health of a loop that is blocked `times` times for `block_s`."""

    async def play() -> ClientHealth:
        async with Monitor(ReceiveStamps()) as monitor:
            for _ in range(times):
                await asyncio.sleep(0.02)
                time.sleep(block_s)
            await asyncio.sleep(0.02)
            return monitor.health()

    return asyncio.run(play())


def test_a_blocked_loop_shows_and_counts_once_for_every_tick_that_was_due() -> None:
    health = watch(0.1, times=3)
    assert health.loop_lag_s is not None
    assert health.loop_lag_s > 0.08
    assert health.num_loop_samples > 25  # about 0.38 s at 100 a second, though the loop ran for 0.08 s of it
    assert health.cpu_s < health.wall_s / 2  # asleep, not busy


def test_processor_time_is_of_the_client() -> None:
    async def play() -> ClientHealth:
        async with Monitor(ReceiveStamps()) as monitor:
            deadline_s = time.process_time() + 0.1
            while time.process_time() < deadline_s:
                pass
            return monitor.health()

    health = asyncio.run(play())
    assert 0.1 <= health.cpu_s < 0.2


def test_garbage_collections_are_seen_and_the_hook_is_taken_back() -> None:
    before = len(gc.callbacks)

    async def play() -> ClientHealth:
        async with Monitor(ReceiveStamps()) as monitor:
            gc.collect()
            return monitor.health()

    health = asyncio.run(play())
    assert 0 < health.gc_pause_max_s <= health.gc_pauses_s
    assert len(gc.callbacks) == before
