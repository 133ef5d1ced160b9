"""A sweep over load levels and backends, point by point."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ming_eval.client import probe
from ming_eval.client.client import Client
from ming_eval.client.exchange import Exchange, Timeouts
from ming_eval.client.garbage import frozen_garbage
from ming_eval.load.arrivals import Arrivals, ClosedLoop, OpenLoop, Ramp, Replay, Spacing
from ming_eval.load.breaker import Breaker
from ming_eval.load.conversations import unbroken
from ming_eval.load.kept import Kept
from ming_eval.load.monitor import Monitor
from ming_eval.load.plan import Api, Level, LoadPlan, Shape
from ming_eval.load.runner import Bodies, OnExchange, send_all
from ming_eval.load.share import Gate, OpenGate, Share, Sliced
from ming_eval.load.stopping import Stopper, StopRules
from ming_eval.load.synthetic import LengthSource, Vocabulary, find_vocabulary
from ming_eval.load.token_ids import TokenIds, find_token_ids
from ming_eval.load.trace import read_trace
from ming_eval.load.watching import Watcher
from ming_eval.load.workload import PointWork, Prompt, load_prompts, plan_points
from ming_eval.metrics.latency import make_record, reply_of
from ming_eval.run_folder import RequestLog
from ming_eval.targets import Target
from ming_eval.types import Media, Outage, Phase, RequestRecord, Task

_AHEAD_PER_SLOT = 4
_FEWEST_AHEAD = 64
_MOST_CONNECTS = 1000
WHOLE = Share()
ALONE = OpenGate()
_LARGEST_SAMPLE_BYTES = 4_000_000
_KEPT_SPOKEN = 3  # answers of a point whose speech is kept, to be listened to


class Observer(Protocol):
    """Who wants to see a sweep while it goes on; called inside the event loop, so it must be quick."""

    def point_started(self, backend: str, load: str, num_requests: int, *, warmup: bool) -> None: ...

    def request_ended(self, record: RequestRecord) -> None: ...

    def point_ended(self) -> None: ...

    def say(self, line: str) -> None: ...


class Sweep:
    """Runs a plan; what has ended goes into `kept`, also when the run is cut short.

    What is in `kept` already was done by an earlier process and is not done again; `zero_s` is the run's clock zero on
    this process's clock. `share` is this process's part of each point, `gate` where it waits for the other processes.
    """

    def __init__(
        self,
        plan: LoadPlan,
        targets: Sequence[Target],
        log: RequestLog,
        observer: Observer,
        kept: Kept,
        zero_s: float,
        share: Share = WHOLE,
        gate: Gate = ALONE,
    ) -> None:
        self._plan = plan
        self._targets = tuple(targets if plan.api is Api.CHAT else (target.for_completions() for target in targets))
        self._log = log
        self._observer = observer
        self._kept = kept
        self._done = kept.done()
        limit_s = plan.timeout_s
        self._timeouts = Timeouts() if limit_s is None else Timeouts(first_s=limit_s, idle_s=limit_s)
        self._zero_s = zero_s
        self._share = share
        self._gate = gate
        self._length_source: str | None = None
        self._sampled: set[Task] = set()

    async def run(self) -> None:
        """All points. Every backend gets the same requests, one after the other, a-b, b-a, a-b, ...

        Raises:
            TargetError: a server does not take connections at the beginning of a point, or goes away for good.
            DataError: results cannot be written.
        """
        is_first = True
        prompts = load_prompts(self._plan.prompts)
        vocabulary = await self._find_vocabulary(prompts)
        for turn, work in enumerate(plan_points(self._plan, prompts, vocabulary)):
            # Turned round each time: a drift of the host or the network then favours neither system.
            for target in self._targets if turn % 2 == 0 else reversed(self._targets):
                if (target.name, work.level, work.repeat) in self._done.complete:
                    continue
                if not is_first:
                    await asyncio.sleep(self._plan.rest_s)
                is_first = False
                await self._run_point(target, work)

    async def _find_vocabulary(self, prompts: Sequence[Prompt]) -> Vocabulary | TokenIds | None:
        """By the first server; all others get the same texts."""
        plan = self._plan
        if plan.input_tokens is None:
            return None
        path = None if plan.tokenizer is None else Path(plan.tokenizer)
        if plan.draws_ids:
            drawn = await find_token_ids(self._targets[0], plan.vocabulary, path)
            self._length_source = LengthSource.IDS.value
            self._observer.say(f"prompts: drawn from {drawn}")
            return drawn
        found = await find_vocabulary(self._targets[0], (prompt.text for prompt in prompts), path)
        self._length_source = found.source.value
        self._observer.say(f"lengths of prompts: {found.source.value}, {found.tokens_per_word:.3g} tokens a word")
        return found

    async def _run_point(self, target: Target, work: PointWork) -> None:
        async with Client(target, connections=self._num_slots(work), timeouts=self._timeouts) as client:
            missing = self._missing(client.target, work)
            own = self._own(range(len(work.warmup) if missing else 0), work.level)
            warmup = Bodies(client, (work.warmup[i] for i in own))
            # Media before the warm-up, so that the server has no time to cool down while they are read and encoded.
            early = self._bodies(client, work, missing) if work.level.task.value[0] != "T" else None
            self._keep_sample(work)
            with frozen_garbage():
                await self._gate.wait()
                await self._warm_up(client, work, warmup)
                bodies = self._bodies(client, work, missing) if early is None else early
                await self._measure(client, work, missing, bodies)

    def _keep_sample(self, work: PointWork) -> None:
        task = work.level.task
        if task in self._sampled or task.value[0] == "T" or not work.measured or self._share.index > 0:
            return
        self._sampled.add(task)
        for part in work.measured[0].messages[0].parts:
            if isinstance(part, Media) and len(part.data) <= _LARGEST_SAMPLE_BYTES:
                self._log.save_sample(task, part)
                return

    def _bodies(self, client: Client, work: PointWork, missing: Sequence[int]) -> Bodies:
        """Of this process's part of what is missing."""
        indices = self._own(missing, work.level)
        ahead = None if self._plan.is_counted else max(_FEWEST_AHEAD, _AHEAD_PER_SLOT * work.level.concurrency)
        return Bodies(client, (work.measured[i] for i in indices), ahead, work.conversations)

    def _missing(self, target: Target, work: PointWork) -> Sequence[int]:
        """Which of the measured requests have not ended in an earlier process; of conversations, their first turns."""
        everything = range(len(work.measured))
        ended = self._done.indices.get((target.name, work.level, work.repeat))
        missing = [i for i in everything if i not in ended] if ended else everything
        return missing if work.layout is None else unbroken(work.layout, missing)

    def _num_slots(self, work: PointWork) -> int:
        """Of the point, those that have something to do; the share of this process is taken of all of its slots."""
        whole = min(work.level.concurrency, max(len(work.measured), len(work.warmup), 1))
        return self._share.num_slots(whole)

    async def _warm_up(self, client: Client, work: PointWork, bodies: Bodies) -> None:
        """At the point's own load, so that pools, caches and batch sizes of the server are what they will be."""
        if not bodies:
            return
        indices = self._own(range(len(work.warmup)), work.level)
        self._observer.point_started(client.target.name, work.level.title, len(indices), warmup=True)
        keep = self._keeper(work, indices, warmup=True)
        await send_all(client, self._sliced(self._warmup_arrivals(work.level)), bodies, keep)
        self._observer.point_ended()

    async def _measure(self, client: Client, work: PointWork, missing: Sequence[int], bodies: Bodies) -> None:
        """Send this process's part of what is missing and keep a phase of it, also when it is cut short."""
        plan, target, level = self._plan, client.target, work.level
        indices = self._own(missing, level)
        stopper = Stopper(self._stop_rules(target, work))
        breaker = Breaker(client.reconnect, lambda: probe.takes_work(target), limit_s=plan.outage_limit_s)
        num_units = len(work.measured) if work.layout is None else len(work.layout.starts)
        arrivals = self._sliced(self._arrivals(level, skip=num_units - len(missing)))
        self._observer.point_started(target.name, level.title, _num_requests(work, indices), warmup=False)
        await self._gate.wait()
        if not arrivals.slots:
            return
        watcher = Watcher(target, self._zero_s, is_needed=self._share.index == 0)
        async with watcher, Monitor(client.receive_stamps) as monitor:
            started_s, complete = time.perf_counter(), False
            try:
                await send_all(
                    client,
                    arrivals,
                    bodies,
                    self._keeper(work, indices, warmup=False, stopper=stopper),
                    should_stop=stopper.should_stop,
                    breaker=breaker if plan.outage_limit_s else None,
                )
                complete = True
            finally:
                ended_s, health = time.perf_counter(), monitor.health()
                await watcher.look_again(may_ask=complete)
                self._end_phase(
                    Phase(
                        backend=target.name,
                        concurrency=level.concurrency,
                        rate_per_s=level.rate_per_s,
                        started_s=started_s - self._zero_s,
                        ended_s=ended_s - self._zero_s,
                        complete=complete,
                        stopped=stopper.reason,
                        outages=tuple(self._since_zero(outage) for outage in breaker.outages),
                        health=health,
                        length_source=self._length_source,
                        server=watcher.server_samples(),
                        gpus=watcher.gpu_samples(),
                        task=level.task,
                        repeat=work.repeat,
                        connects_s=tuple(round(time_s, 6) for time_s in client.connect_times_s[:_MOST_CONNECTS]),
                        processes=min(self._share.count, level.concurrency),
                    )
                )
        self._observer.point_ended()
        for outage in breaker.outages:
            self._observer.say(f"  {target.name} was away for {outage.end_s - outage.start_s:.2f} s")

    def _keeper(
        self, work: PointWork, indices: Sequence[int], *, warmup: bool, stopper: Stopper | None = None
    ) -> OnExchange:
        """What turns an exchange into a record, and hands it to everybody who keeps one."""
        level = work.level

        def keep(position: int, slot: int, exchange: Exchange) -> None:
            turn = exchange.request.turn
            index = indices[position] if turn is None or warmup else turn.index
            made = make_record(exchange, index=index, concurrency=level.concurrency, warmup=warmup, zero_s=self._zero_s)
            full = replace(made, slot=self._share.slot(slot), rate_per_s=level.rate_per_s, repeat=work.repeat)
            reply = self._log.add(reply_of(exchange, full))  # without secrets that the server echoed
            record = reply.record
            if reply.audio and not warmup and index < _KEPT_SPOKEN and work.repeat == 1:
                self._log.save_audio(reply)
            self._kept.records.append(record)
            self._observer.request_ended(record)
            if stopper is not None:
                stopper.see(record)

        return keep

    def _own(self, values: Sequence[int], level: Level) -> Sequence[int]:
        return self._share.take(values, level.concurrency)

    def _sliced(self, arrivals: Arrivals) -> Arrivals:
        return arrivals if self._share.is_whole else Sliced(arrivals, self._share)

    def _end_phase(self, phase: Phase) -> None:
        self._log.add_phase(phase)
        self._kept.phases.append(phase)

    def _since_zero(self, outage: Outage) -> Outage:
        return Outage(outage.start_s - self._zero_s, outage.end_s - self._zero_s)

    def _stop_rules(self, target: Target, work: PointWork) -> StopRules:
        """Of the time of a point, this process may use what an earlier one has left."""
        plan = self._plan
        left_s = plan.duration_s
        if left_s is not None:
            left_s = max(0.0, left_s - self._done.used_s.get((target.name, work.level, work.repeat), 0.0))
        # Of n processes each sees an nth: the mean of all is known better by the root of n.
        until_ci = None if plan.until_ci is None else plan.until_ci * math.sqrt(self._share.count)
        return StopRules(left_s, plan.stop_error_rate, until_ci)

    def _arrivals(self, level: Level, *, skip: int) -> Arrivals:
        """The shape of the load; of an open loop, after the first `skip` requests."""
        plan = self._plan
        match plan.shape:
            case Shape.CLOSED:
                return ClosedLoop(level.concurrency)
            case Shape.WAVES:
                return ClosedLoop(level.concurrency, in_waves=True)
            case Shape.RAMP:
                assert plan.duration_s is not None
                return Ramp(plan.rates_per_s[0], plan.rates_per_s[-1], plan.duration_s, level.concurrency, skip)
            case Shape.TRACE:
                assert plan.trace is not None
                times_s = tuple(row.time_s for row in read_trace(Path(plan.trace)))
                return Replay(times_s, level.concurrency, skip)
            case _:
                assert level.rate_per_s is not None
                spacing = Spacing(plan.shape.value)
                return OpenLoop(level.rate_per_s, level.concurrency, spacing, plan.burstiness, plan.seed, skip)

    def _warmup_arrivals(self, level: Level) -> Arrivals:
        if level.rate_per_s is None or self._plan.shape is Shape.TRACE:  # a trace may be slow to bring them
            return ClosedLoop(level.concurrency)
        return OpenLoop(level.rate_per_s, level.concurrency, Spacing.CONSTANT)


def _num_requests(work: PointWork, indices: Sequence[int]) -> int:
    """How many requests start from those at `indices`, which are first turns where there are conversations."""
    layout = work.layout
    if layout is None:
        return len(indices)
    return sum(len(layout.indices(layout.turn(index).conversation)) for index in indices)
