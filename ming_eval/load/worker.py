"""One of several processes that share a load: `python -m ming_eval.load.worker`, started and steered by `load.crew`.

It is told what to do in one line of JSON on standard input, says where it is in lines on standard output, and waits at
the gates of the sweep until it is told the moment to go on. It shares nothing with the other processes while requests
are measured. When its standard input is closed it stops and keeps what it has.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from ming_eval.load import interrupt
from ming_eval.load.kept import Kept
from ming_eval.load.plan import LoadPlan
from ming_eval.load.share import Share
from ming_eval.load.sweep import Sweep
from ming_eval.load.wire import News, Wire
from ming_eval.run_folder import Redactor, RequestLog
from ming_eval.targets import Target
from ming_eval.types import RequestRecord

_REPORT_S = 0.25


class WorkerSpec(msgspec.Struct, frozen=True):
    """The first line. `zero_s` is the run's clock zero on this host's clock; `secrets` are masked in files."""

    plan: LoadPlan
    targets: tuple[Target, ...]
    folder: str
    index: int
    count: int
    zero_s: float
    secrets: tuple[str, ...] = ()


class Go(msgspec.Struct, frozen=True):
    """Every further line: the moment to go on, on this host's monotonic clock."""

    at_s: float


class _Gate:
    """Says that it has come, and sleeps until the moment that it is told."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._opened: asyncio.Queue[Go] = asyncio.Queue()

    async def wait(self) -> None:
        self._wire.say(News("gate"))
        go = await self._opened.get()
        await asyncio.sleep(max(0.0, go.at_s - time.perf_counter()))

    async def listen(self) -> None:
        """Take in what is said from outside; returns when standard input is closed."""
        while line := await self._wire.read():
            self._opened.put_nowait(msgspec.json.decode(line, type=Go))


class _Reporter:
    """Tells how far this process is, four times a second and not for each request."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._news = News("progress")
        self._told_s = 0.0

    def point_started(self, backend: str, load: str, num_requests: int, *, warmup: bool) -> None:
        self._news = News("progress")
        self._wire.say(News("point", text=f"{backend} {load}", num_requests=num_requests, warmup=warmup))

    def request_ended(self, record: RequestRecord) -> None:
        news = self._news
        news.ended += 1
        news.failed += not record.ok
        news.tokens += (record.num_output_tokens or 0) if record.ok else 0
        if time.perf_counter() - self._told_s > _REPORT_S:
            self._told_s = time.perf_counter()
            self._wire.say(news)

    def point_ended(self) -> None:
        self._wire.say(self._news)
        self._wire.say(News("point_ended"))

    def say(self, line: str) -> None:
        self._wire.say(News("say", text=line))


async def work() -> None:
    """Do what the first line says."""
    wire = await Wire.connect()
    spec = msgspec.json.decode(await wire.read(), type=WorkerSpec)
    gate = _Gate(wire)
    sweeping, listening = asyncio.create_task(_sweep(spec, wire, gate)), asyncio.create_task(gate.listen())
    await asyncio.wait((sweeping, listening), return_when=asyncio.FIRST_COMPLETED)
    for task in (sweeping, listening):
        task.cancel()
    (result, _) = await asyncio.gather(sweeping, listening, return_exceptions=True)
    wire.end(result)


async def _sweep(spec: WorkerSpec, wire: Wire, gate: _Gate) -> None:
    folder = Path(spec.folder)
    kept = Kept.stored(folder)
    with RequestLog(folder, Redactor(spec.secrets), worker=spec.index) as log:
        share = Share(spec.index, spec.count)
        await Sweep(spec.plan, spec.targets, log, _Reporter(wire), kept, spec.zero_s, share, gate).run()


if __name__ == "__main__":
    interrupt.run(work())
