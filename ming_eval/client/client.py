"""The only code that sends a measured request: pooled connections to one target, nothing retried.

Bodies are serialised and connections opened before the clock starts. No proxies, no redirects, no content coding.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ming_eval.client import wire
from ming_eval.client.exchange import Exchange, Timeouts
from ming_eval.client.protocol import Clock, Connection
from ming_eval.client.reply import EventCallback, ReplyReader
from ming_eval.client.stamped import open_stamped
from ming_eval.client.stamps import IS_SUPPORTED, ReceiveStamps
from ming_eval.errors import TargetError
from ming_eval.targets import Target
from ming_eval.types import Failure, Request

_OPEN_LIMIT_S = 9.0
_CONNECTS_AT_ONCE = 64  # below the accept queue of common servers: a dropped SYN costs a second
_SETTLE_AFTER_S = 0.5
_STAMPED_SHARE = 16  # one connection in so many is read by the client itself, for the kernel's stamps
_MOST_STAMPED = 8


class Client:
    """Sends requests to one target and keeps a pool of connections; an async context manager.

    There are never more connections than `connections` unless more requests than that are under way at once.
    A connection that broke is replaced before the next request is timed, never during one.
    """

    def __init__(
        self,
        target: Target,
        *,
        connections: int,
        timeouts: Timeouts | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.target = target
        self.connect_times_s: list[float] = []
        self.receive_stamps = ReceiveStamps(clock)
        self._num_connections = connections
        self._timeouts = timeouts or Timeouts()
        self._clock = clock
        self._keeps_alive = _keeps_alive(target)
        self._endpoint = urlsplit(target.base_url)
        self._tls = ssl.create_default_context() if self._endpoint.scheme == "https" else None
        self._addresses: list[tuple[str, int]] = []
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        can_stamp = IS_SUPPORTED and self._tls is None
        self._num_to_stamp = min(_MOST_STAMPED, -(-connections // _STAMPED_SHARE)) if can_stamp else 0
        self._head = request_head(target, "POST", urlsplit(target.request_url).path, wire.content_type(target.dialect))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the pool; takes less than 10 s whatever happens.

        Raises:
            TargetError: the server does not take this many connections.
        """
        try:
            async with asyncio.timeout(_OPEN_LIMIT_S):
                await self._fill_pool()
        except OSError as exc:  # TimeoutError is one
            await self.close()
            hint = "; is the server running?" if isinstance(exc, ConnectionRefusedError | TimeoutError) else ""
            raise TargetError(f"cannot connect to {self.target.base_url}: {_reason(exc)}{hint}") from exc

    async def reconnect(self) -> bool:
        """Open a connection, for the pool where one is missing there; False when the server takes none."""
        try:
            connection = await self._connect()
        except OSError:
            return False
        if len(self._open) > self._num_connections:
            self._discard(connection)
        else:
            self._idle.append(connection)
        return True

    @property
    def num_kept(self) -> int:
        """Connections that wait for the next request."""
        return sum(connection.usable for connection in self._idle)

    async def close(self) -> None:
        """Close every connection; requests still under way end as failures."""
        connections, self._open = self._open, set()
        self._idle.clear()
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.wait_closed() for connection in connections))

    def prepare(self, request: Request) -> bytes:
        """The whole HTTP request, to be built before the clock starts.

        Raises:
            DataError: a media part cannot be written in the target's dialect.
        """
        body = wire.encode(request, self.target.model, self.target.dialect)
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    async def send(
        self,
        request: Request,
        prepared: bytes | None = None,
        *,
        intended_s: float | None = None,
        on_event: EventCallback | None = None,
    ) -> Exchange:
        """Send one request and read its reply; a failure is recorded in the exchange, not raised.

        `prepared` is what `prepare` gave for this request; `intended_s` when it was due, on the client's clock.
        `on_event` is called as events arrive, inside the measured path.
        """
        exchange = Exchange(
            request=request,
            backend=self.target.name,
            request_bytes=prepared if prepared is not None else self.prepare(request),
            intended_s=intended_s,
            sent_s=self._clock(),
        )
        await self.carry(ReplyReader(exchange, self.target.dialect, on_event))
        return exchange

    async def carry(self, reader: ReplyReader) -> None:
        """Send the reader's request over a connection of the pool and return once its exchange has ended."""
        exchange = reader.exchange
        try:
            connection = await self._acquire(exchange)
        except OSError as exc:
            exchange.fail(Failure.CONNECT, _reason(exc), self._clock())
            return
        try:
            await connection.exchange(reader)
        finally:
            self._release(connection)

    async def _acquire(self, exchange: Exchange) -> Connection:
        """An idle connection, else a new one, noted in the exchange.

        Raises:
            OSError: no connection can be opened.
        """
        while self._idle:
            connection = self._idle.pop()
            if self._clock() - connection.idle_since_s > _SETTLE_AFTER_S:
                await _let_loop_read()
            if connection.usable:
                return connection
            self._discard(connection)
        connection = await self._connect()
        exchange.reused_connection = False
        exchange.connect_s = connection.connect_s
        return connection

    def _release(self, connection: Connection) -> None:
        if self._keeps_alive and connection.usable and connection in self._open:
            self._idle.append(connection)
        else:  # failed, closed by the server, or the caller was cancelled
            self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        connection.close()
        if connection in self._open:
            self._open.remove(connection)
            self._num_to_stamp += connection.is_stamped

    async def _fill_pool(self) -> None:
        while (missing := self._num_connections - len(self._open)) > 0:
            wave = min(missing, _CONNECTS_AT_ONCE) if self._open else 1  # the first one finds the address
            results = await asyncio.gather(*(self._connect() for _ in range(wave)), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                self._idle.append(result)

    async def _connect(self) -> Connection:
        """Open one connection; the address that works first is used from then on."""
        if not self._addresses:
            self._addresses = await self._resolve()
        for host, port in self._addresses[:-1]:
            try:
                connection = await self._connect_to(host, port)
            except OSError:
                continue
            self._addresses = [(host, port)]
            return connection
        return await self._connect_to(*self._addresses[-1])

    async def _connect_to(self, host: str, port: int) -> Connection:
        started_s = self._clock()
        connection = Connection(self._clock, self._timeouts)
        connection.is_stamped = self._num_to_stamp > 0
        self._num_to_stamp -= connection.is_stamped
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                if connection.is_stamped:
                    await open_stamped(host, port, connection, self.receive_stamps, self._clock)
                else:
                    await self._create_connection(connection, host, port)
        except BaseException:
            self._num_to_stamp += connection.is_stamped
            raise
        connection.connect_s = self._clock() - started_s
        self.connect_times_s.append(connection.connect_s)
        self._open.add(connection)
        return connection

    async def _create_connection(self, connection: Connection, host: str, port: int) -> None:
        await asyncio.get_running_loop().create_connection(
            lambda: connection,
            host,
            port,
            ssl=self._tls,
            server_hostname=self._endpoint.hostname if self._tls else None,
        )

    async def _resolve(self) -> list[tuple[str, int]]:
        port = self._endpoint.port or (443 if self._tls else 80)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeouts.connect_s):
            found = await loop.getaddrinfo(self._endpoint.hostname, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((str(address[0]), port) for *_, address in found))


async def _let_loop_read() -> None:
    """Let the loop take in what has arrived, so that a connection closed while nobody looked is known as closed."""
    for _ in range(3):  # poll, then the callbacks of what was found
        await asyncio.sleep(0)


def _keeps_alive(target: Target) -> bool:
    """False where each request is to have a connection of its own, by the dialect or by the user's header."""
    asked = ("connection", "close")
    return target.dialect.keeps_alive and all((name.lower(), value.lower()) != asked for name, value in target.headers)


def request_head(target: Target, method: str, path: str, content_type: str | None) -> bytes:
    """Every byte of a request up to the value of Content-Length; all of it for one without a body."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {urlsplit(target.base_url).netloc}",
        "User-Agent: ming-eval",
        "Accept: text/event-stream, application/json, */*;q=0.5",
        "Accept-Encoding: identity",
        *(f"{name}: {value}" for name, value in target.all_headers()),
        *(() if target.dialect.keeps_alive else ("Connection: close",)),
        *((f"Content-Type: {content_type}", "Content-Length: ") if content_type else ("", "")),
    ]
    return "\r\n".join(lines).encode("latin-1")


def _reason(exc: OSError) -> str:
    match exc:
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return "no answer in time"
        case socket.gaierror():
            return "unknown host"
        case OSError(errno=errno.EMFILE):
            return "too many open files: raise the limit with `ulimit -n`"
        case ssl.SSLCertVerificationError():
            return f"certificate not trusted ({exc.verify_message})"
        case _:
            return exc.strerror or str(exc)
