"""Arrivals x requests x client -> exchanges: the loop that is running while latency is measured.

A task per slot, not per request; nothing but sending and receiving happens in a slot. What is made of a finished
exchange (record, files, progress) happens in one task of its own, after the slot has sent its next request.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ming_eval.client.client import Client
from ming_eval.client.exchange import Exchange
from ming_eval.load.arrivals import Arrivals
from ming_eval.types import Request

OnExchange = Callable[[int, int, Exchange], None]  # index, slot, what happened


async def send_all(client: Client, arrivals: Arrivals, requests: Sequence[Request], on_exchange: OnExchange) -> None:
    """Send every request when `arrivals` has it due; `on_exchange` gets each as it ends.

    When cancelled, requests in flight are given up and those that have ended still reach `on_exchange`.
    An error that `on_exchange` raises ends the run and is raised here.
    """
    bodies = [client.prepare(request) for request in requests]
    ended: asyncio.Queue[tuple[int, int, Exchange]] = asyncio.Queue()
    start_s = time.perf_counter()
    work = enumerate(zip(arrivals.due_times_s(), requests, bodies, strict=False))  # due times never end

    async def run_slot(slot: int) -> None:
        for index, (due_s, request, body) in work:
            if due_s is not None:
                await asyncio.sleep(start_s + due_s - time.perf_counter())
            intended_s = None if due_s is None else start_s + due_s
            ended.put_nowait((index, slot, await client.send(request, body, intended_s=intended_s)))

    async def hand_on() -> None:
        for _ in requests:
            on_exchange(*await ended.get())

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(hand_on())
            for slot in range(min(arrivals.slots, len(requests))):
                group.create_task(run_slot(slot))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    except asyncio.CancelledError:
        while not ended.empty():
            on_exchange(*ended.get_nowait())
        raise


@contextmanager
def frozen_garbage() -> Iterator[None]:
    """Keep what exists out of the garbage collector's sight, so that its pauses do not grow with it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
