"""The web application: routes, and around them what every request goes through."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from engine.errors import InvalidRequest, Overloaded
from engine.server.auth import host_of, is_loopback
from engine.server.body import keeps_body_back
from engine.server.cors import Cors
from engine.server.errors import ApiError, as_api_error, bad_request
from engine.server.http import SERVER_NAME, is_gone
from engine.server.labels import LABEL_HEADER, request_label
from engine.server.logs import log_requests
from engine.server.routes import TENANT_KEY, Routes
from engine.server.service import Service

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_HEADER_BYTES = 32 * 1024
_UNREAD = frozenset({408, 413, 431})  # answers before the whole request was read
_OPEN_ROUTES = frozenset({"/health", "/metrics", "/version"})  # a route that is not named here needs a key


def make_app(service: Service) -> web.Application:
    """The application over one service."""
    cors = Cors(service.options.cors_origins)
    layers: list[Middleware] = [
        *([log_requests] if service.options.log_requests else []),
        _Envelopes(service),
        _Guard(service, cors),
    ]
    app = web.Application(middlewares=layers, client_max_size=0)
    app.add_routes(Routes(service).table())
    app.on_response_prepare.append(_label)
    app.on_response_prepare.append(cors.mark)
    return app


async def _label(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[LABEL_HEADER] = request_label(request)
    response.headers["Server"] = SERVER_NAME


@web.middleware
class _Envelopes:
    """Every error that has a meaning as the envelope; a bug passes through to the connection's own handler."""

    def __init__(self, service: Service) -> None:
        self._rejected = service.metrics.rejected

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return self._answer(request, error)
        except (InvalidRequest, Overloaded) as error:
            return self._answer(request, as_api_error(error))
        except web.HTTPException as error:
            return self._answer(request, _routing_error(error))
        except ConnectionError:
            if not is_gone(request):
                raise  # it is about another connection, and no client of ours must take it for an empty answer
            log.debug("request %s: the client is gone", request_label(request))
            return web.Response()

    def _answer(self, request: web.Request, error: ApiError) -> web.Response:
        self._rejected[error.code] += 1
        response = web.Response(status=error.status, body=error.envelope(), content_type="application/json")
        response.headers.update(error.headers)
        if error.status in _UNREAD or keeps_body_back(request):
            response.force_close()  # what is left of the request would be read as the next one
        return response


@web.middleware
class _Guard:
    """Headers, Host and key, judged on the route that was matched."""

    def __init__(self, service: Service, cors: Cors) -> None:
        self._cors = cors
        self._options = service.options
        guarded = {"/metrics"} if service.options.metrics_auth else set()
        self._open_routes = _OPEN_ROUTES - guarded

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEADER_BYTES:
            raise bad_request(431, "headers_too_large", f"The headers have more than {MAX_HEADER_BYTES} bytes.")
        self._check_host(request.headers.get("Host"))
        if (preflight := self._cors.preflight(request)) is not None:
            return preflight
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical not in self._open_routes:
            self._check_key(request)
        return await handler(request)

    def _check_host(self, header: str | None) -> None:
        """A page on the web can reach a loopback port under a name of its own, but not under ours."""
        if self._options.loopback_only and header is not None and not is_loopback(host_of(header)):
            raise bad_request(421, "wrong_host", "This server is only for its own machine: use localhost as the host.")

    def _check_key(self, request: web.Request) -> None:
        if not self._options.keys:
            return
        sent = request.headers.getall("Authorization", [])
        tenant = (
            self._options.keys.tenant(sent[0]) if len(sent) == 1 else None
        )  # of two, a proxy may have read the other
        if tenant is None:
            headers = {"WWW-Authenticate": "Bearer"}
            message = "The API key is missing or not accepted. Send it as: Authorization: Bearer KEY"
            raise ApiError(401, "authentication_error", message, code="invalid_api_key", headers=headers)
        request[TENANT_KEY] = tenant


def _routing_error(error: web.HTTPException) -> ApiError:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"The method {error.method[:20]} is not allowed here; allowed: {allowed}"
        return bad_request(405, "method_not_allowed", message, Allow=allowed)
    if isinstance(error, web.HTTPNotFound):
        return bad_request(404, "not_found", "There is no such route.")
    return bad_request(error.status, "invalid_value", error.reason)
