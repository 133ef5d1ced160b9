"""Several processes answer one accuracy run: each its own items, into a file of its own; joined at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ming_eval.commands.accuracy_settings import refuse_idle_workers
from ming_eval.commands.accuracy_turns import Turn, Watcher
from ming_eval.commands.accuracy_worker import AnswerNews, AnswerSpec, GiveUp
from ming_eval.errors import TargetError
from ming_eval.evals.error_window import ErrorWindow
from ming_eval.evals.item import Kind
from ming_eval.evals.responses import RESPONSES_FILE, Response, join_responses, read_parts, read_responses
from ming_eval.evals.runner import SampleKey
from ming_eval.load.links import ClockOffset, Link, fetch_files
from ming_eval.load.wire import error_of
from ming_eval.report.progress import Progress

FETCH_S = 30.0  # at most so much is asked again after this process was killed, where files are on other hosts


@dataclass(slots=True)
class SharedAsked:
    """What the processes have told of one turn; `responses` is filled once their files are joined."""

    responses: dict[SampleKey, Response] = field(default_factory=dict)
    reused: set[SampleKey] = field(default_factory=set)
    gave_up: bool = False
    keys: dict[SampleKey, str] = field(default_factory=dict)
    spans_s: list[tuple[float, float]] = field(default_factory=list)
    num_ended: int = 0
    window: ErrorWindow = field(default_factory=ErrorWindow)
    is_failing: bool = False

    @property
    def wall_s(self) -> float | None:
        """From the first request of any process to the last reply of any; None when nothing was sent."""
        if not self.spans_s:
            return None
        return max(done_s for _, done_s in self.spans_s) - min(sent_s for sent_s, _ in self.spans_s)


class AnswerCrew:
    """Has the turns answered by one process behind each link; afterwards each turn holds what came.

    `spec` is what all are told; its folder is the run's.
    """

    def __init__(self, spec: AnswerSpec, turns: Sequence[Turn], links: Sequence[Link], progress: Progress) -> None:
        self._spec = spec
        self._turns = turns
        self._links = links
        self._progress = progress
        self._folder = Path(spec.folder)
        self._asked = [SharedAsked() for _ in turns]
        self._watchers = [Watcher(progress, turn) for turn in turns]
        self._listeners: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def run(self) -> None:
        """All turns; what there is is kept also when cancelled.

        Raises:
            UsageError: there are more processes than requests at a time.
            TargetError: a server lacks what is needed, or a worker cannot be started or ends by itself.
            DataError: a worker has other data, or results cannot be written.
        """
        refuse_idle_workers(len(self._links), self._spec.settings.concurrency)
        fetching: asyncio.Task[None] | None = None
        try:
            offsets = await self._start()
            fetching = asyncio.create_task(self._fetch_now_and_then())
            self._listeners = [
                asyncio.create_task(self._listen(index, link, offset))
                for index, (link, offset) in enumerate(zip(self._links, offsets, strict=True))
            ]
            done, _ = await asyncio.wait(self._listeners, return_when=asyncio.FIRST_EXCEPTION)
            for listener in done:
                listener.result()
        finally:
            if fetching is not None:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)  # what went wrong does so again in `_finish`
            await asyncio.shield(self._finish())

    async def _start(self) -> list[ClockOffset]:
        await asyncio.gather(*(link.start() for link in self._links))
        offsets = await asyncio.gather(*(link.clock() for link in self._links))
        path = self._folder / RESPONSES_FILE
        earlier = {path.name: path.read_bytes()} if path.exists() else {}
        await asyncio.gather(*(link.prepare(earlier) for link in self._links))
        count = len(self._links)
        specs = [
            replace(self._spec, folder=link.folder(self._spec.folder), index=index, count=count)
            for index, link in enumerate(self._links)
        ]
        lines = [msgspec.json.encode(spec) for spec in specs]
        await asyncio.gather(*(link.send(line) for link, line in zip(self._links, lines, strict=True)))
        return list(offsets)

    async def _listen(self, index: int, link: Link, offset: ClockOffset) -> None:
        """Take in what a worker says until it has ended; one that was told to stop may end without a word."""
        while line := await link.receive():
            news = msgspec.json.decode(line, type=AnswerNews)
            if news.kind == "end":
                return
            if news.kind == "error":
                raise error_of(news)
            was_failing = self._asked[news.turn].is_failing
            self._take(news, offset)
            if self._asked[news.turn].is_failing and not was_failing and not self._is_stopping:
                line = msgspec.json.encode(GiveUp(news.turn))
                await asyncio.gather(*(each.send(line) for each in self._links))
        if not self._is_stopping:
            code = await link.stop()
            raise TargetError(f"worker {index} on {link.host} ended by itself (exit code {code})")

    def _take(self, news: AnswerNews, offset: ClockOffset) -> None:
        turn, asked, watcher = self._turns[news.turn], self._asked[news.turn], self._watchers[news.turn]
        turn.asked = asked
        for each in news.answers:
            key = each.id, each.repeat, each.rotation
            asked.keys[key] = each.key
            if each.reused:
                asked.reused.add(key)
            watcher.reply_ended(None, each.outcome, reused=each.reused)
            asked.is_failing |= asked.window.add(each.outcome)
        asked.gave_up |= news.gave_up or asked.is_failing
        if news.span_s is not None:
            sent_s, done_s = news.span_s
            asked.spans_s.append((sent_s - offset.offset_s, done_s - offset.offset_s))
        if news.kind == "turn_ended":
            asked.num_ended += 1
            if asked.num_ended == len(self._links):
                watcher.end()

    async def _fetch_now_and_then(self) -> None:
        """Bring answers home while there are more to come; not where each has a file of speech: those are too many."""
        while all(turn.plan.suite.kind is not Kind.SPEECH for turn in self._turns):
            await asyncio.sleep(FETCH_S)
            await fetch_files(self._links, self._folder)

    def _take_unsaid(self) -> None:
        """A worker that was killed may have written more than it could tell."""
        written = read_parts(self._folder)
        for turn, asked in zip(self._turns, self._asked, strict=True):
            names = {target.name for target in turn.targets}
            mine = [each for each in written if each.suite == turn.plan.name and each.backend in names]
            asked.keys |= {(each.id, each.repeat, each.rotation): each.key for each in mine}
            if mine:
                turn.asked = asked

    async def _finish(self) -> None:
        """Let every worker end, hear it out, fetch its file, and read what there is."""
        self._is_stopping = True
        await asyncio.gather(*(link.stop() for link in self._links))
        await asyncio.gather(*self._listeners, return_exceptions=True)
        await fetch_files(self._links, self._folder)
        self._take_unsaid()
        join_responses(self._folder)
        kept = read_responses(self._folder)
        for asked in self._asked:
            asked.responses = {sample: kept[key] for sample, key in asked.keys.items() if key in kept}
