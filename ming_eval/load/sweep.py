"""A closed-loop sweep over concurrencies and backends, point by point."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ming_eval.client.client import Client
from ming_eval.client.exchange import Exchange, Timeouts
from ming_eval.load.arrivals import ClosedLoop
from ming_eval.load.plan import LoadPlan
from ming_eval.load.runner import frozen_garbage, send_all
from ming_eval.load.workload import PointWork, load_prompts, plan_points
from ming_eval.metrics.latency import make_record, reply_of
from ming_eval.run_folder import RequestLog
from ming_eval.targets import Target
from ming_eval.types import Request, RequestRecord


class Observer(Protocol):
    """Who wants to see a sweep while it goes on; called inside the event loop, so it must be quick."""

    def point_started(self, backend: str, concurrency: int, num_requests: int, *, warmup: bool) -> None: ...

    def request_ended(self, record: RequestRecord) -> None: ...

    def point_ended(self) -> None: ...


class Sweep:
    """Runs a plan; `records` holds what has ended so far, also when the run was cut short."""

    def __init__(self, plan: LoadPlan, targets: Sequence[Target], log: RequestLog, observer: Observer) -> None:
        self.records: list[RequestRecord] = []
        self._plan = plan
        self._targets = tuple(targets)
        self._log = log
        self._observer = observer
        limit_s = plan.timeout_s
        self._timeouts = Timeouts() if limit_s is None else Timeouts(first_s=limit_s, idle_s=limit_s)
        self._zero_s = time.perf_counter()

    async def run(self) -> None:
        """All points, rising. Every backend gets the same requests, one after the other, a-b, b-a, a-b, ...

        Raises:
            TargetError: a server does not take connections at the beginning of a point.
            DataError: results cannot be written.
        """
        for turn, work in enumerate(plan_points(self._plan, load_prompts(self._plan.prompts))):
            # Turned round each time: a drift of the host or the network then favours neither system.
            for target in self._targets if turn % 2 == 0 else reversed(self._targets):
                await self._run_point(target, work)

    async def _run_point(self, target: Target, work: PointWork) -> None:
        async with Client(target, connections=work.concurrency, timeouts=self._timeouts) as client:
            with frozen_garbage():
                await self._send(client, work.concurrency, work.warmup, warmup=True)
                await self._send(client, work.concurrency, work.measured, warmup=False)

    async def _send(self, client: Client, concurrency: int, requests: Sequence[Request], *, warmup: bool) -> None:
        def keep(index: int, slot: int, exchange: Exchange) -> None:
            made = make_record(exchange, index=index, concurrency=concurrency, warmup=warmup, zero_s=self._zero_s)
            record = replace(made, slot=slot)
            self._log.add(reply_of(exchange, record))
            self.records.append(record)
            self._observer.request_ended(record)

        if not requests:
            return
        self._observer.point_started(client.target.name, concurrency, len(requests), warmup=warmup)
        await send_all(client, ClosedLoop(concurrency), requests, keep)
        self._observer.point_ended()
