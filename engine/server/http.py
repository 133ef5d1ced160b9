"""The HTTP server under the routes: connection limit, header limits, and the envelope for what no route has seen."""

from __future__ import annotations

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from engine.errors import ConfigError
from engine.server.errors import ApiError, bad_request, internal_error
from engine.server.labels import LABEL_HEADER, request_label

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 8 * 1024
MAX_HEADERS = 100
KEEPALIVE_S = 75.0
_CLOSE_S = 2.0


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
    """Serves an application on a bound socket until `stop`."""

    def __init__(self, app: web.Application, sock: socket.socket, *, max_connections: int) -> None:
        # A client that leaves cancels its handler, which ends its requests in the engine.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSE_S)
        self._sock = sock
        self._max_connections = max_connections
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    async def start(self) -> None:
        """Accept connections."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=self._sock)

    async def stop(self) -> None:
        """Close the port and every connection; answers under way get two seconds."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _connection(self) -> asyncio.Protocol:
        manager = self._runner.server
        assert manager is not None
        if len(manager.connections) >= self._max_connections:
            return _Refuse()
        return _Connection(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,  # `read_body` does it, with the limit on what comes out
            access_log=None,  # type: ignore[arg-type]  # None is what turns it off
        )


class _Refuse(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Connection(RequestHandler):
    """Answers malformed HTTP, and failures of our own, with the error envelope."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        label = request_label(request)
        error = _http_error(exc) if status < 500 else internal_error(label)
        if status >= 500:
            log.error("request %s failed", label, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: all that is left is to close the connection")
        response = web.Response(status=error.status, body=error.envelope(), content_type="application/json")
        response.headers.update(error.headers)
        response.headers[LABEL_HEADER] = label
        response.force_close()
        return response


def _http_error(exc: BaseException | None) -> ApiError:
    if isinstance(exc, LineTooLong):
        return bad_request(431, "headers_too_large", f"A header line is longer than {MAX_LINE_BYTES} bytes.")
    return bad_request(400, "invalid_value", "The request is not valid HTTP.")
