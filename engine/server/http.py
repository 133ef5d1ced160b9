"""The HTTP server under the routes: connection limit, header limits, clients that do not read, and the envelope for
what no route has seen."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from engine.errors import ConfigError
from engine.server.errors import ApiError, bad_request, internal_error
from engine.server.labels import LABEL_HEADER, request_label

log = logging.getLogger(__name__)

SERVER_NAME = "ming-eval"
MAX_LINE_BYTES = 8 * 1024
MAX_HEADERS = 100
KEEPALIVE_S = 75.0
UNREAD_S = 60.0  # how long a client may read nothing of what waits for it
_CLOSE_S = 2.0
_LOOKS = 12  # at what is unread, within that time


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ConfigError: the name or the port cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror or error}; choose another --host") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    return sock


class HttpServer:
    """Serves an application on a bound socket until `stop`; counts in `rejected`, by code, what no route has seen."""

    def __init__(
        self, app: web.Application, sock: socket.socket, rejected: Counter[str], *, max_connections: int
    ) -> None:
        # A client that leaves cancels its handler, which ends its requests in the engine.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSE_S)
        self._sock = sock
        self._rejected = rejected
        self._max_connections = max_connections
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    async def start(self) -> None:
        """Accept connections."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=self._sock)
        self._watch = asyncio.create_task(self._watch_readers())

    async def stop(self) -> None:
        """Close the port and every connection; answers under way get two seconds."""
        if self._server is not None:
            self._server.close()
        connections = self._connections
        await self._runner.cleanup()
        if self._watch is not None:
            self._watch.cancel()
        for connection in connections:
            connection.drop()  # one that does not read would keep its transport open

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    @property
    def _connections(self) -> Sequence[_Connection]:
        manager = self._runner.server
        return [] if manager is None else [cast(_Connection, connection) for connection in manager.connections]

    async def _watch_readers(self) -> None:
        """Drop clients that do not read their answers, whole ones and those of closing connections included."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(UNREAD_S / _LOOKS)
            for connection in self._connections:
                connection.look(loop.time())

    def _connection(self) -> asyncio.Protocol:
        manager = self._runner.server
        assert manager is not None
        if self.num_connections >= self._max_connections:
            self._rejected["too_many_connections"] += 1
            return _Refuse()
        return _Connection(
            manager,
            self._rejected,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,  # `read_body` does it, with the limit on what comes out
            access_log=None,  # None is what turns it off
        )


class _Refuse(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Connection(RequestHandler):
    """Answers malformed HTTP, and failures of our own, with the error envelope; notices a client that does not read."""

    __slots__ = ("_has_read", "_num_unread", "_read_s", "_rejected", "_wire")

    def __init__(self, manager: web.Server, rejected: Counter[str], **options: Any) -> None:
        super().__init__(manager, **options)
        self._rejected = rejected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)  # the base class forgets its own while it closes
        self._has_read = True
        self._num_unread = 0
        self._read_s = 0.0

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_read = True

    def look(self, now_s: float) -> None:
        """Compare what is unread with the last look; drop the connection if nothing was read for too long."""
        num_unread = self._wire.get_write_buffer_size()
        if self._has_read or num_unread < self._num_unread or not num_unread:
            self._has_read, self._read_s = False, now_s
        self._num_unread = num_unread
        if now_s - self._read_s >= UNREAD_S:
            log.info("dropping a client that has not read %d bytes for %g s", num_unread, UNREAD_S)
            self.drop()

    def drop(self) -> None:
        """Close at once, with what is unread."""
        self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError) and is_gone(request):
            raise exc  # nobody is there to be answered
        label = request_label(request)
        error = _http_error(exc) if status < 500 else internal_error(label)
        self._rejected[error.code] += 1
        if status >= 500:
            log.error("request %s failed", label, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: all that is left is to close the connection")
        response = _response(error)
        response.headers[LABEL_HEADER] = label
        response.headers["Server"] = SERVER_NAME
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # of an expectation, before the application's own envelopes
            resp = _response(bad_request(resp.status, "invalid_value", "The request cannot be served as it is."))
        return await super().finish_response(request, resp, start_time)


def is_gone(request: web.BaseRequest) -> bool:
    """Whether the client of a request has left, or was dropped."""
    return request.transport is None or request.transport.is_closing()


def _response(error: ApiError) -> web.Response:
    response = web.Response(status=error.status, body=error.envelope(), content_type="application/json")
    response.headers.update(error.headers)
    return response


def _http_error(exc: BaseException | None) -> ApiError:
    if isinstance(exc, LineTooLong):
        return bad_request(431, "headers_too_large", f"A header line is longer than {MAX_LINE_BYTES} bytes.")
    return bad_request(400, "invalid_value", "The request is not valid HTTP.")
