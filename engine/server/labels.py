"""The X-Request-Id label of a request: the client's if it is a plain one, otherwise made here."""

from __future__ import annotations

import re
import secrets

from aiohttp import web

LABEL_HEADER = "X-Request-Id"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,128}")
_KEY = web.RequestKey("label", str)


def request_label(request: web.BaseRequest) -> str:
    """The label, the same each time. It is never the key of anything."""
    label = request.get(_KEY)
    if label is None:
        given = request.headers.get(LABEL_HEADER, "")
        label = request[_KEY] = given if _PLAIN.fullmatch(given) else secrets.token_hex(12)
    return label
