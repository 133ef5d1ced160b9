"""A running sweep on standard error: one live line and what is finished above it; plain lines off a terminal.

Drawing happens in the event loop that measures, so it is rare and cheap: a line of text, about 0.2 ms, twice a second.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from ming_eval.metrics import latency
from ming_eval.report.grid import number
from ming_eval.types import RequestRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_REDRAW_S = 0.5


@dataclass(slots=True)
class _Phase:
    """What is known of the point, or its warm-up, that is running."""

    name: str
    num_requests: int
    started_s: float
    ended: int = 0
    failed: int = 0
    tokens: int = 0
    ttfts_s: list[float] = field(default_factory=list)

    def add(self, record: RequestRecord) -> None:
        self.ended += 1
        self.failed += not record.ok
        self.tokens += (record.num_output_tokens or 0) if record.ok else 0
        if (ttft_s := latency.ttft_s(record)) is not None:
            self.ttfts_s.append(ttft_s)

    def line(self) -> str:
        elapsed_s = time.perf_counter() - self.started_s
        parts = [f"{self.name}: {self.ended}/{self.num_requests} done, {self.failed} failed"]
        if self.ttfts_s:
            parts.append(f"{number(self.tokens / elapsed_s)} tok/s")
            parts.append(f"TTFT p50 {number(1000 * statistics.median(self.ttfts_s))} ms")
        return ", ".join([*parts, f"{elapsed_s:.1f} s"])


class Progress:
    """Shows a sweep to whoever watches it, on `stream` or standard error; a context manager."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._console: Console | None = None
        self._live: Live | None = None
        self._phase: _Phase | None = None
        self._status = ""

    def __enter__(self) -> Progress:
        if self._is_terminal:
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._stream, highlight=False)
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._console is not None:
            self._console.print(line, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    def status(self, text: str) -> None:
        """What is going on; replaced by the next status. Not shown off a terminal."""
        self._status = text
        self._redraw(text)

    def point_started(self, backend: str, load: str, num_requests: int, *, warmup: bool) -> None:
        """A point, or its warm-up, begins; `load` is its name, such as c=8."""
        name = f"{backend} {load}{' warm-up' if warmup else ''}"
        self._phase = _Phase(name, num_requests, time.perf_counter())
        self._redraw(self._phase.line())

    def request_ended(self, record: RequestRecord) -> None:
        """Count one request; the picture follows with the next tick."""
        assert self._phase is not None
        self._phase.add(record)

    def point_ended(self) -> None:
        """Leave the finished point on the screen; a warm-up leaves nothing unless something failed in it."""
        assert self._phase is not None
        if not self._phase.name.endswith("warm-up") or self._phase.failed:
            self.say(self._phase.line())
        self._phase = None

    async def tick(self) -> None:
        """Redraw until cancelled."""
        while True:
            await asyncio.sleep(_REDRAW_S)
            self._redraw(self._phase.line() if self._phase is not None else self._status)

    def _redraw(self, line: str) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
