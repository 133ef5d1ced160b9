"""One request outside the measurement, over the measured client's connections: a status and a body, whatever they say.

The client is there anyway, and loading a library for this would take longer than a run of one token may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ming_eval.client.client import Client, request_head
from ming_eval.client.exchange import Exchange, Timeouts
from ming_eval.client.reply import ReplyError, ReplyReader
from ming_eval.errors import TargetError
from ming_eval.targets import Dialect, Target
from ming_eval.types import Failure, Request

_LIMIT_S = 9.0
_CONNECT_LIMIT_S = 5.0
_PAGE = Request(id="page", messages=(), stream=False)


@dataclass(frozen=True, slots=True)
class Page:
    """What came back; header names are lower case. `arrivals`: seconds after sending, and the bytes that came then."""

    status: int
    headers: Mapping[str, str]
    arrivals: tuple[tuple[float, bytes], ...]

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(piece for _, piece in self.arrivals)


async def fetch(
    target: Target,
    method: str,
    url: str,
    body: bytes = b"",
    *,
    content_type: str = "application/json",
    limit_s: float = _LIMIT_S,
) -> Page:
    """Ask `url`, which is on the target's server, once; redirects are not followed.

    Raises:
        TargetError: nobody listens, or there is no complete answer within `limit_s`.
    """
    timeouts = Timeouts(total_s=limit_s, connect_s=min(limit_s, _CONNECT_LIMIT_S))
    try:
        async with asyncio.timeout(limit_s), Client(target, connections=0, timeouts=timeouts) as client:
            return await _ask(client, method, url, body, content_type)
    except TimeoutError as exc:
        raise TargetError(f"no answer from {url} within {limit_s:g} s") from exc


async def _ask(client: Client, method: str, url: str, body: bytes, content_type: str) -> Page:
    has_body = method != "GET"
    head = request_head(client.target, method, urlsplit(url).path, content_type if has_body else None)
    exchange = Exchange(
        request=_PAGE,
        backend=client.target.name,
        request_bytes=b"%b%d\r\n\r\n%b" % (head, len(body), body) if has_body else head,
        intended_s=None,
        sent_s=time.perf_counter(),
    )
    reader = _PageReader(exchange, client.target.dialect)
    await client.carry(reader)
    if exchange.failure is Failure.CONNECT:
        raise TargetError(f"cannot connect to {url}: {exchange.error}; is the server up?")
    if exchange.failure is not None:
        raise TargetError(f"cannot read {url}: {exchange.error}")
    assert exchange.http_status is not None
    return Page(exchange.http_status, reader.headers, tuple(reader.arrivals))


class _PageReader(ReplyReader):
    """Keeps the body as it comes."""

    headers: Mapping[str, str] = {}

    def __init__(self, exchange: Exchange, dialect: Dialect) -> None:
        super().__init__(exchange, dialect)
        self.arrivals: list[tuple[float, bytes]] = []

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.exchange.http_status = status
        self.headers = headers

    def feed(self, body: bytes, now_s: float) -> None:
        self.arrivals.append((now_s - self.exchange.sent_s, body))

    def _judge(self, now_s: float, broken: ReplyError | None) -> None:  # noqa: ARG002
        if broken is not None:
            raise broken
