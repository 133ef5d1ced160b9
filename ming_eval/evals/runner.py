"""Asks a suite's samples, several at a time, and keeps every answer. One failing item never ends a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ming_eval.errors import DataError
from ming_eval.evals.answerer import Answerer, Tried
from ming_eval.evals.asking import Attachments, build_request, read_attachments, response_key
from ming_eval.evals.digest import digest
from ming_eval.evals.error_window import ErrorWindow
from ming_eval.evals.item import Outcome
from ming_eval.evals.judging import is_final, judge
from ming_eval.evals.plan import Plan, Sample
from ming_eval.evals.responses import Attempt, Response, ResponseLog
from ming_eval.evals.retry import RetryPolicy
from ming_eval.evals.sharing import Seat, Table
from ming_eval.types import Request

_DRAIN_LIMIT_S = 10.0

SampleKey = tuple[str, int, int]


class Observer(Protocol):
    """Who wants to see a run while it goes on; called inside the event loop, so it must be quick."""

    def reply_ended(self, response: Response, outcome: Outcome, *, reused: bool) -> None: ...


class SuiteRun:
    """Runs a plan; `responses` holds what has come so far by sample, also when the run was cut short.

    Several servers share the samples (see `Table`); a sample that one of them fails at is tried again at another.
    `gave_up` is true after the run has ended itself because more than half of the last 50 replies were errors, its own
    or those of all processes that share the suite.
    """

    def __init__(
        self,
        plan: Plan,
        answerers: Sequence[Answerer],
        log: ResponseLog,
        observer: Observer,
        *,
        concurrency: int,
        retries: RetryPolicy | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.responses: dict[SampleKey, Response] = {}
        self.reused: set[SampleKey] = set()
        self.gave_up = False
        self._plan = plan
        self._table = Table(answerers, plan.samples, concurrency)
        self._log = log
        self._observer = observer
        self._concurrency = concurrency
        self._retries = retries or RetryPolicy()
        self._clock = clock
        self._stopping = asyncio.Event()
        self._window = ErrorWindow()
        self._sent_s: float | None = None
        self._done_s: float | None = None

    @property
    def span_s(self) -> tuple[float, float] | None:
        """The first request and the last reply on the clock; None when nothing was sent."""
        return None if self._sent_s is None or self._done_s is None else (self._sent_s, self._done_s)

    @property
    def wall_s(self) -> float | None:
        """From the first request to the last reply; None when nothing was sent."""
        return None if self.span_s is None else self.span_s[1] - self.span_s[0]

    def give_up(self) -> None:
        """Send nothing more and try nothing again; what is under way is waited for."""
        self.gave_up = True
        self._stopping.set()

    async def run(self) -> None:
        """Ask every sample; cancelled, it sends nothing more and waits a little for what is under way.

        Raises:
            DataError: an answer cannot be written.
            TargetError: the server lacks an endpoint that is needed.
        """
        workers = [
            asyncio.create_task(self._work(seat)) for seat in self._table.seats for _ in range(self._concurrency)
        ]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                worker.result()
        except asyncio.CancelledError:
            self._stopping.set()
            await asyncio.wait(workers, timeout=_DRAIN_LIMIT_S)
            raise
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, seat: Seat) -> None:
        while not self._stopping.is_set() and (sample := self._table.take(seat)) is not None:
            await self._answer(seat, sample)

    async def _answer(self, seat: Seat, sample: Sample) -> None:
        try:
            attached = await self._attachments(sample)
        except (OSError, DataError) as exc:
            self._keep(sample, self._log.add(self._unsendable(seat.answerer, sample, exc)))
            return
        request = build_request(self._plan, sample, attached)
        known = self._known(sample, request)
        if known is not None:
            self.reused.add(sample.key)
            self._keep(sample, known)
            return
        try:
            response = await self._ask(seat, sample, request)
        except DataError as exc:  # a file of a kind that the server's dialect has no form for
            response = self._unsendable(seat.answerer, sample, exc)
        self._keep(sample, self._log.add(response))

    def _known(self, sample: Sample, request: Request) -> Response | None:
        """The answer of one of the servers from before, where it is one to keep."""
        if not self._log.known:
            return None
        keys = (self._key(seat, sample, request) for seat in self._table.seats)
        found = [self._log.known[key] for key in keys if key in self._log.known]
        return next((each for each in found if is_final(judge(self._plan, sample, each))), None)

    def _key(self, seat: Seat, sample: Sample, request: Request) -> str:
        return response_key(self._plan, sample, request, seat.answerer.server)

    async def _attachments(self, sample: Sample) -> Attachments:
        if not sample.item.media and sample.item.subtitles is None:
            return Attachments()
        return await asyncio.to_thread(read_attachments, self._plan, sample)

    async def _ask(self, seat: Seat, sample: Sample, request: Request) -> Response:
        """Ask until there is an answer or no attempt is left, each time a server that does not fail."""
        attempts: list[Attempt] = []
        while True:
            if self._sent_s is None:
                self._sent_s = self._clock()
            tried = await seat.ask(sample, request)
            self._done_s = self._clock()
            wait_s = self._wait_s(len(attempts) + 1, tried)
            attempts.append(Attempt(tried.latency_s, tried.failure, tried.http_status, tried.error, wait_s))
            if wait_s is None:
                key = self._key(seat, sample, request)
                return self._response(seat.answerer, sample, key=key, attempts=tuple(attempts), tried=tried)
            await self._pause(wait_s)
            seat = self._table.after(seat)

    def _wait_s(self, num_attempts: int, tried: Tried) -> float | None:
        if self._stopping.is_set():
            return None
        return self._retries.wait_s(num_attempts, tried.failure, tried.http_status, tried.retry_after_s)

    async def _pause(self, wait_s: float) -> None:
        """Wait, but no longer than the run goes on."""
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _unsendable(self, answerer: Answerer, sample: Sample, error: OSError | DataError) -> Response:
        """The response of a sample whose files cannot be read."""
        key = digest(self._plan.suite.name, sample.key, "missing", answerer.backend)
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        return self._response(answerer, sample, key=key, missing=reason)

    def _response(
        self,
        answerer: Answerer,
        sample: Sample,
        *,
        key: str,
        attempts: tuple[Attempt, ...] = (),
        tried: Tried | None = None,
        missing: str | None = None,
    ) -> Response:
        tried = tried or Tried(latency_s=0.0)
        speech = tried.speech
        return Response(
            key=key,
            suite=self._plan.name,
            backend=answerer.backend,
            id=sample.item.id,
            repeat=sample.repeat,
            rotation=sample.rotation,
            text=tried.text,
            reasoning=tried.reasoning,
            finish_reason=tried.finish_reason,
            attempts=attempts,
            prompt_tokens=tried.prompt_tokens,
            completion_tokens=tried.completion_tokens,
            choice_logprobs=tried.choice_logprobs,
            audio=None if speech is None else self._log.save_audio(key, speech.data),
            audio_s=None if speech is None else speech.audio_s,
            sample_rate_hz=None if speech is None else speech.sample_rate_hz,
            announced_rate_hz=None if speech is None else speech.announced_rate_hz,
            transcript=None if speech is None else speech.transcript,
            missing=missing,
        )

    def _keep(self, sample: Sample, response: Response) -> None:
        self.responses[sample.key] = response
        outcome = judge(self._plan, sample, response).outcome
        self._observer.reply_ended(response, outcome, reused=sample.key in self.reused)
        if self._window.add(outcome):
            self.give_up()
