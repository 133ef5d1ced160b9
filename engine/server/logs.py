"""What a client sent, in a form that is safe in a log: JSON escapes, cut short."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from engine.server.labels import request_label

log = logging.getLogger(__name__)

_MAX_LOGGED = 200  # characters

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def logged(sent: str | bytes) -> str:
    """A client's string, on one line whatever it holds."""
    text = sent[: 4 * _MAX_LOGGED].decode("utf-8", "replace") if isinstance(sent, bytes) else sent
    return json.dumps(text[:_MAX_LOGGED] + ("..." if len(text) > _MAX_LOGGED else ""))


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A line for the end of each request: what was asked for, and what came of it."""
    started_s = time.perf_counter()
    outcome = "left by the client"
    try:
        response = await handler(request)
        outcome = str(response.status)
        return response
    finally:
        elapsed_s = time.perf_counter() - started_s
        what = f"{request.method} {logged(request.path)}"
        log.info("request %s: %s: %s after %.3f s", request_label(request), what, outcome, elapsed_s)


def log_body(request: web.Request, body: bytes) -> None:
    """A line with the beginning of what was sent."""
    log.info("request %s: %d bytes: %s", request_label(request), len(body), logged(body))
