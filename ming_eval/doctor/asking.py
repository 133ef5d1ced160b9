"""Questions to a server within a fixed time: answers as values, never an exception for what the server does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import msgspec

from ming_eval.client import Client, Timeouts, probe, wire
from ming_eval.client.page import Page, fetch
from ming_eval.doctor.stream import Traits, read_stream
from ming_eval.errors import DataError, TargetError
from ming_eval.targets import Target
from ming_eval.types import Message, Request, Text

PROMPT = "Count from one to thirty, in words."
_MOMENT_S = 0.3  # a server that closes a connection behind a reply does so within some milliseconds


class OutOfTimeError(Exception):
    """The time for all questions is used up."""


class Kept(Enum):
    """Whether a connection serves the next request; SAID_SO: the reply leaves it open, and it is closed after all."""

    YES = auto()
    NO = auto()
    SAID_SO = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, or in `error` why there is none. `traits` are there when the status is 200."""

    status: int | None
    traits: Traits | None
    error: str | None
    page: Page | None = None

    @property
    def is_good(self) -> bool:
        """True when something generated came, and nothing that says it failed."""
        return self.traits is not None and self.traits.error is None and bool(self.traits.outputs)

    @property
    def reason(self) -> str:
        """Why it is not good, in one line."""
        if self.error is not None:
            return self.error
        return (self.traits.error if self.traits else None) or "the reply holds no output"


@dataclass(slots=True)
class Questioner:
    """Asks one server; `limit_s` is for one question, `deadline_s` (time.monotonic) for all."""

    target: Target
    limit_s: float
    deadline_s: float

    async def get(self, url: str) -> Page | None:
        """GET; None where nobody answers."""
        return await self._page("GET", url, b"")

    async def post(self, url: str, content: Mapping[str, Any]) -> Page | None:
        """POST some JSON; None where nobody answers."""
        return await self._page("POST", url, msgspec.json.encode(content))

    async def count(self, text: str) -> int | None:
        """Tokens of `text` as the server counts them; None where it does not."""
        self._left_s()
        try:
            return await probe.count_tokens(self.target, text)
        except TargetError:
            return None

    async def keeps_connection(self) -> Kept | None:
        """What becomes of a connection behind a streamed reply; None when there was no reply."""
        timeouts = Timeouts(total_s=self._left_s())
        try:
            async with Client(self.target, connections=1, timeouts=timeouts) as client:
                exchange = await client.send(question(max_tokens=2))
                if exchange.failure is not None:
                    return None
                if not client.num_kept:
                    return Kept.NO
                await asyncio.sleep(_MOMENT_S)
                return Kept.YES if client.num_kept else Kept.SAID_SO
        except (DataError, TargetError):
            return None

    async def ask(self, request: Request) -> Answer:
        """Send one request as a run would."""
        target = self.target
        try:
            body = wire.encode(request, target.model, target.dialect)
        except DataError as exc:
            return Answer(None, None, str(exc))
        try:
            page = await fetch(
                target,
                "POST",
                target.request_url,
                body,
                content_type=wire.content_type(target.dialect),
                limit_s=self._left_s(),
            )
        except TargetError as exc:
            return Answer(None, None, str(exc))
        if page.status != 200:
            return Answer(page.status, None, f"HTTP {page.status}: {wire.error_text(page.body)}", page)
        return Answer(page.status, read_stream(page, target.dialect), None, page)

    def speaking(self, dialect: str) -> Questioner:
        """The same, in another dialect."""
        from ming_eval.targets import find_dialect

        return replace(self, target=replace(self.target, dialect=find_dialect(dialect)))

    def _left_s(self) -> float:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise OutOfTimeError
        return min(self.limit_s, left_s)

    async def _page(self, method: str, url: str, body: bytes) -> Page | None:
        try:
            return await fetch(self.target, method, url, body, limit_s=self._left_s())
        except TargetError:
            return None


def question(text: str = PROMPT, *, max_tokens: int = 24, **options: Any) -> Request:
    """A short request; options as in `Request`."""
    return Request("doctor", (Message("user", (Text(text),)),), max_tokens=max_tokens, **options)
