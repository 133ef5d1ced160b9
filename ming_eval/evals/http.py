"""Requests that are not chats, over aiohttp: one session per server, outcomes as values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from ming_eval.client.wire import error_text
from ming_eval.targets import Target
from ming_eval.types import Failure


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, or why there is none. `body` is there when `failure` is None."""

    latency_s: float
    status: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    failure: Failure | None = None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def lacks_route(self) -> bool:
        """True when the server has no such endpoint."""
        return self.status in (404, 405, 501)


class Session:
    """POSTs to one server below its `/v1`; an async context manager. No redirects, no retries."""

    def __init__(self, target: Target, *, timeout_s: float, connections: int) -> None:
        self.target = target
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=dict(self.target.all_headers()),
            timeout=self._timeout,
            connector=aiohttp.TCPConnector(limit=self._connections),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, path: str, **content: Any) -> Answer:
        """POST to `path`, such as `completions`; `content` is `json=` or `data=`."""
        started_s = time.perf_counter()
        try:
            async with self._session.post(
                f"{self.target.base_url}/{path}", allow_redirects=False, **content
            ) as response:
                body = await response.read()
                return _answer(response, body, time.perf_counter() - started_s)
        except TimeoutError:
            failure, error = Failure.TIMEOUT_TOTAL, "no reply in time"
        except aiohttp.ClientConnectorError as exc:
            failure, error = Failure.CONNECT, str(exc)
        except aiohttp.ClientError as exc:
            failure, error = Failure.RESET, str(exc)
        return Answer(time.perf_counter() - started_s, failure=failure, error=error)


def _answer(response: aiohttp.ClientResponse, body: bytes, latency_s: float) -> Answer:
    status = response.status
    if status < 300:
        return Answer(latency_s, status, body, response.headers)
    hint = response.headers.get("Retry-After", "")
    failure = Failure.HTTP_429 if status == 429 else Failure.HTTP_5XX if status >= 500 else Failure.HTTP_4XX
    return Answer(
        latency_s,
        status,
        failure=failure,
        error=f"HTTP {status}: {error_text(body)}",
        retry_after_s=float(hint) if hint.isdecimal() else None,
    )
