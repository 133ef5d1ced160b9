"""Reading a request body: content type, coding, size and time, before a byte of it is parsed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import TransferEncodingError

from engine.server.errors import ApiError, bad_request

_GZIP_WINDOW = 31  # zlib's number for the gzip container
_PIECE_BYTES = 1 << 20
_WAITS_KEY = web.RequestKey("waits for 100 Continue", bool)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Decoded size, time of arrival, and the one type that a route takes."""

    max_bytes: int
    timeout_s: float
    content_type: str = "application/json"


async def read_body(request: web.Request, limits: BodyLimits, hold: Callable[[int], None]) -> bytes:
    """The decoded body of a JSON request; `hold` is told of its bytes as they come.

    Raises:
        Overloaded: `hold` refuses more.
        ApiError: 415 for another type or coding, 413 above the limit, 408 when it does not arrive in time,
            400 when its coding is broken.
    """
    _check_headers(request, limits.content_type)
    if (request.content_length or 0) > limits.max_bytes:
        raise _too_large(limits.max_bytes)
    try:
        async with asyncio.timeout(limits.timeout_s):
            await _ask_for_body(request)
            return await _read(request, limits.max_bytes, hold)
    except TimeoutError:
        message = f"The request body did not arrive within {limits.timeout_s:g} s."
        raise ApiError(408, "timeout_error", message, code="body_timeout") from None
    except (web.RequestPayloadError, TransferEncodingError, zlib.error):
        raise bad_request(400, "invalid_value", "The request body cannot be decoded.") from None


async def check_expectation(request: web.Request) -> web.Response | None:
    """Refuse what is no `100-continue`; that is answered once the body is wanted, by `read_body`."""
    if request.headers["Expect"].lower() != "100-continue":
        error = bad_request(417, "invalid_value", "The only Expect that is understood is 100-continue.")
        return web.Response(status=error.status, body=error.envelope(), content_type="application/json")
    request[_WAITS_KEY] = request.version >= HttpVersion11  # older clients do not wait for anything
    return None


def keeps_body_back(request: web.Request) -> bool:
    """Whether the client still waits to be asked for its body: nobody knows if it comes after a refusal."""
    return bool(request.get(_WAITS_KEY))


async def _ask_for_body(request: web.Request) -> None:
    if keeps_body_back(request):
        request[_WAITS_KEY] = False
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer


async def _read(request: web.Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    decoder = zlib.decompressobj(_GZIP_WINDOW) if _coding(request) == "gzip" else None
    body = bytearray()
    async for chunk in request.content.iter_any():
        async for piece in _decoded(chunk, decoder):
            if len(body) + len(piece) > max_bytes:
                raise _too_large(max_bytes)
            hold(len(piece))
            body += piece
    if decoder is not None and not decoder.eof:
        raise zlib.error("the compressed body is cut off")
    return bytes(body)


async def _decoded(chunk: bytes, decoder: zlib._Decompress | None) -> AsyncIterator[bytes]:
    """A chunk in pieces of bounded size, so that a small one which expands enormously is noticed early."""
    if decoder is None:
        yield chunk
        return
    while chunk:
        yield decoder.decompress(chunk, _PIECE_BYTES)
        chunk = decoder.unconsumed_tail
        await asyncio.sleep(0)  # others get their turn


def _coding(request: web.Request) -> str:
    return request.headers.get("Content-Encoding", "identity").lower()


def _check_headers(request: web.Request, content_type: str) -> None:
    if request.content_type != content_type:
        raise bad_request(415, "unsupported_media_type", f"The Content-Type must be {content_type}.")
    if _coding(request) not in ("identity", "gzip"):
        raise bad_request(415, "unsupported_media_type", "The Content-Encoding must be gzip, or absent.")


def _too_large(max_bytes: int) -> ApiError:
    return bad_request(413, "body_too_large", f"The request body is larger than {max_bytes} bytes.")
