"""Cases x servers -> results, one request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ming_eval.client.client import Client
from ming_eval.client.exchange import Timeouts
from ming_eval.client.garbage import frozen_garbage
from ming_eval.coverage.case_result import case_result, unsent_case
from ming_eval.coverage.cases import Case, CaseSet
from ming_eval.coverage.plan import CoveragePlan
from ming_eval.errors import DataError
from ming_eval.metrics.latency import make_record, reply_of
from ming_eval.results import CoverageCase
from ming_eval.run_folder import RequestLog
from ming_eval.targets import Target
from ming_eval.types import Reply, Request, RequestRecord, Task


class Observer(Protocol):
    """Who wants to see a run while it goes on."""

    def case_started(self, backend: str, name: str) -> None: ...

    def case_ended(self, case: CoverageCase) -> None: ...


class Coverage:
    """Runs a plan; what ends is appended to `results`, so that it is there when the run is cut short.

    `zero_s` is the run's clock zero on this process's clock.
    """

    def __init__(
        self,
        plan: CoveragePlan,
        cases: CaseSet,
        targets: Sequence[Target],
        log: RequestLog,
        observer: Observer,
        results: list[CoverageCase],
        *,
        zero_s: float,
    ) -> None:
        self._plan = plan
        self._cases = cases
        self._targets = tuple(targets)
        self._log = log
        self._observer = observer
        self._results = results
        limit_s = plan.timeout_s
        self._timeouts = Timeouts() if limit_s is None else Timeouts(first_s=limit_s, idle_s=limit_s)
        self._zero_s = zero_s
        self._num_sent = 0

    async def run(self) -> None:
        """Every modality in turn, and in it every server: a warm-up, then each case.

        Raises:
            TargetError: a server does not take a connection at the beginning of a modality.
            DataError: results cannot be written.
        """
        for task in self._plan.modalities:
            for target in self._targets:
                async with Client(target, connections=1, timeouts=self._timeouts) as client:
                    with frozen_garbage():
                        await self._run_task(client, task)

    async def _run_task(self, client: Client, task: Task) -> None:
        warmup = self._cases.warmups[task]
        if _cannot_write(client, warmup) is None:
            self._observer.case_started(client.target.name, warmup.id)
            await self._send(client, warmup.request(), warmup=True)
        for case in self._cases.of(task):
            if (reason := _cannot_write(client, case)) is None:
                await self._run_case(client, case)
            else:
                self._end_case(unsent_case(case, client.target.name, reason))

    async def _run_case(self, client: Client, case: Case) -> None:
        self._observer.case_started(client.target.name, case.id)
        request = case.request()
        if self._plan.max_tokens is not None:
            request = replace(request, max_tokens=self._plan.max_tokens)
        reply = await self._send(client, request, warmup=False)
        control = await self._control(client, case)
        saved = self._log.save_audio(reply) if reply.audio else None
        self._end_case(case_result(case, reply, control, saved))

    def _end_case(self, result: CoverageCase) -> None:
        self._results.append(result)
        self._observer.case_ended(result)

    async def _control(self, client: Client, case: Case) -> RequestRecord | None:
        """The prompt without its media, after it was measured with it: before, it could warm a prefix cache."""
        if not case.media:
            return None
        return (await self._send(client, case.control(), warmup=True)).record

    async def _send(self, client: Client, request: Request, *, warmup: bool) -> Reply:
        """Send one request, media encoded before its clock starts, and log it; the reply is what was logged."""
        exchange = await client.send(request, client.prepare(request))
        record = make_record(exchange, index=self._num_sent, concurrency=1, warmup=warmup, zero_s=self._zero_s, slot=0)
        self._num_sent += 1
        return self._log.add(reply_of(exchange, record))


def _cannot_write(client: Client, case: Case) -> str | None:
    """Why a case has no form in the server's dialect; None where it has."""
    try:
        client.prepare(case.request())
    except DataError as exc:
        return str(exc)
    return None
