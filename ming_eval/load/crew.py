"""Several processes make one load: started together, let go at the same moments, their files joined at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ming_eval import results
from ming_eval.errors import TargetError
from ming_eval.load.kept import Kept
from ming_eval.load.links import ClockOffset, Link, fetch_files
from ming_eval.load.plan import LoadPlan
from ming_eval.load.wire import News, error_of
from ming_eval.load.worker import Go, WorkerSpec
from ming_eval.run_folder import PHASES_FILE, REQUESTS_FILE, RequestLog, has_records, merge_workers
from ming_eval.targets import Target

WORKERS_FILE = "workers.json"
_STORED = (REQUESTS_FILE, PHASES_FILE)
_LEAD_S = 0.05  # from the word to the moment: longer than it takes to reach a process


class Screen(Protocol):
    """Who watches."""

    def say(self, line: str) -> None: ...

    def status(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Worker:
    """One line of `workers.json`; the offset is its clock less that of the steering process."""

    index: int
    host: str
    clock_offset_ms: float
    clock_error_ms: float


@dataclass(slots=True)
class _Member:
    index: int
    link: Link
    offset: ClockOffset
    point: News = field(default_factory=lambda: News("point"))
    progress: News = field(default_factory=lambda: News("progress"))
    is_at_gate: bool = False
    has_ended: bool = False


class Crew:
    """Runs a plan with one process behind each link; afterwards `kept` holds everything that is in the folder."""

    def __init__(
        self,
        plan: LoadPlan,
        targets: Sequence[Target],
        log: RequestLog,
        screen: Screen,
        kept: Kept,
        zero_s: float,
        links: Sequence[Link],
    ) -> None:
        self._plan = plan
        self._targets = tuple(targets)
        self._log = log
        self._screen = screen
        self._kept = kept
        self._zero_s = zero_s
        self._links = links
        self._members: list[_Member] = []

    async def run(self) -> None:
        """All points; what there is is kept also when cancelled.

        Raises:
            TargetError: a server is not there or goes away, or a worker cannot be started or ends by itself.
            DataError: results cannot be written.
        """
        try:
            await self._start()
            async with asyncio.TaskGroup() as group:
                for member in self._members:
                    group.create_task(self._listen(member))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await asyncio.shield(self._finish())

    async def _start(self) -> None:
        await asyncio.gather(*(link.start() for link in self._links))
        offsets = await asyncio.gather(*(link.clock() for link in self._links))
        self._members = [_Member(i, *pair) for i, pair in enumerate(zip(self._links, offsets, strict=True))]
        workers = [
            Worker(member.index, member.link.host, 1000 * member.offset.offset_s, 1000 * member.offset.error_s)
            for member in self._members
        ]
        results.write_whole(self._log.folder / WORKERS_FILE, results.encode(workers))
        worst_ms = max(worker.clock_error_ms for worker in workers)
        if worst_ms:
            self._screen.say(f"clocks of {len(workers)} workers are aligned within {worst_ms:.2g} ms")
        earlier = {path.name: path.read_bytes() for path in map(self._log.folder.joinpath, _STORED) if path.exists()}
        await asyncio.gather(*(link.prepare(earlier) for link in self._links))
        await asyncio.gather(*(member.link.send(msgspec.json.encode(self._spec(member))) for member in self._members))

    def _spec(self, member: _Member) -> WorkerSpec:
        return WorkerSpec(
            plan=self._plan,
            targets=self._targets,
            folder=member.link.folder(str(self._log.folder.absolute())),
            index=member.index,
            count=len(self._members),
            zero_s=self._zero_s + member.offset.offset_s,
            secrets=self._log.redact.secrets,
        )

    async def _listen(self, member: _Member) -> None:
        while not member.has_ended:
            line = await member.link.receive()
            if not line:
                code = await member.link.stop()
                raise TargetError(f"worker {member.index} on {member.link.host} ended by itself (exit code {code})")
            await self._take(member, msgspec.json.decode(line, type=News))

    async def _take(self, member: _Member, news: News) -> None:
        match news.kind:
            case "gate":
                member.is_at_gate = True
                await self._open_gate()
            case "point":
                member.point, member.progress = news, News("progress")
            case "progress":
                member.progress = news
                self._screen.status(self._line())
            case "point_ended":
                member.point.kind = "ended"
                self._end_point()
            case "say" if member.index == 0:
                self._screen.say(news.text)
            case "error":
                raise error_of(news)
            case "end":
                member.has_ended = True
                await self._open_gate()

    async def _open_gate(self) -> None:
        waiting = [member for member in self._members if member.is_at_gate]
        if len(waiting) < sum(not member.has_ended for member in self._members):
            return
        at_s = time.perf_counter() + _LEAD_S
        for member in waiting:
            member.is_at_gate = False
        lines = [msgspec.json.encode(Go(at_s + member.offset.offset_s)) for member in waiting]
        await asyncio.gather(*(member.link.send(line) for member, line in zip(waiting, lines, strict=True)))

    def _end_point(self) -> None:
        """A finished point stays on the screen, once, when its last process has ended it."""
        if any(member.point.kind == "point" and member.point.num_requests for member in self._members):
            return
        if not any(member.point.warmup for member in self._members):
            self._screen.say(self._line())

    def _line(self) -> str:
        points, done = [member.point for member in self._members], [member.progress for member in self._members]
        name = next((point.text for point in points if point.text), "")
        ended, planned = sum(each.ended for each in done), sum(point.num_requests for point in points)
        warmup = " warm-up" if any(point.warmup for point in points) else ""
        failed = sum(each.failed for each in done)
        return f"{name}{warmup}: {ended}/{planned} done, {failed} failed, {len(points)} workers"

    async def _finish(self) -> None:
        """Let every worker end, fetch its files, and read what there is."""
        await asyncio.gather(*(link.stop() for link in self._links))
        folder = self._log.folder
        await fetch_files(self._links, folder)
        if has_records(folder):
            merge_workers(folder)
        now = Kept.stored(folder)
        self._kept.records[:], self._kept.phases[:] = now.records, now.phases
