"""Pages of other sites that may call this server: the origins that the operator names, exactly, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Collection

from aiohttp import web

from engine.errors import ConfigError
from engine.server.audio_file import RATE_HEADER
from engine.server.labels import LABEL_HEADER

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](?::[0-9]{1,5})?")
_PREFLIGHT_S = 600
_NAMES = re.compile(r"[A-Za-z0-9_-]+(?:[ \t]*,[ \t]*[A-Za-z0-9_-]+)*")
_SENT = f"Authorization, Content-Type, {LABEL_HEADER}"
_READ = f"{LABEL_HEADER}, {RATE_HEADER}, Retry-After"


class Cors:
    """The cross-origin headers. Keys travel in a header of the page's own, so cookies are never asked for."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell the browser that the page may read this answer."""
        if not self._origins:
            return
        response.headers.add("Vary", "Origin")
        if (origin := self._origin(request)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _READ

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks beforehand; None for any other request."""
        error = request.match_info.http_exception
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or self._origin(request) is None or not isinstance(error, web.HTTPMethodNotAllowed):
            return None
        methods = ", ".join(sorted(error.allowed_methods))
        headers = {"Access-Control-Allow-Methods": methods, "Access-Control-Allow-Headers": _sent(request)}
        return web.Response(status=204, headers=headers | {"Access-Control-Max-Age": str(_PREFLIGHT_S)})

    def _origin(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin in self._origins else None


def _sent(request: web.Request) -> str:
    """The headers that a page may send: what it asks for, since clients in a browser add names of their own
    (OpenAI's a dozen), and none of them means anything here."""
    asked = request.headers.get("Access-Control-Request-Headers", "")
    return asked if _NAMES.fullmatch(asked) else _SENT


def check_origin(text: str) -> str:
    """An origin as browsers send it.

    Raises:
        ConfigError: it is another thing, such as `*` or a URL with a path.
    """
    if not _ORIGIN.fullmatch(text):
        raise ConfigError(f"--cors-origin {text}: must be scheme://host[:port] in lower case, and nothing after it")
    return text
