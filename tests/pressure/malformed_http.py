"""Requests that are wrong around their body: codings, types, request lines, headers, chunks."""

from __future__ import annotations

import gzip
from random import Random

from tests.pressure.malformed_bodies import body_of, broken
from tests.pressure.wire import post


def coded(random: Random) -> bytes:
    """A body whose type, length or compression is not what was said."""
    body = body_of("/v1/completions")
    packed = gzip.compress(body)
    kinds: tuple[bytes, ...] = (
        post("/v1/completions", body, "Content-Encoding: gzip"),
        post("/v1/completions", packed[: random.randrange(len(packed))], "Content-Encoding: gzip"),
        post("/v1/completions", broken(random, packed), "Content-Encoding: gzip"),
        post("/v1/completions", packed + packed, "Content-Encoding: gzip"),
        post(
            "/v1/completions", packed, f"Content-Encoding: {random.choice(('br', 'zstd', 'gzip, gzip', 'deflate', ''))}"
        ),
        post("/v1/completions", gzip.compress(b"[" * 100_000), "Content-Encoding: gzip"),
        post("/v1/completions", body).replace(b"application/json", random.choice(_TYPES)),
        post("/v1/audio/transcriptions", _multipart(random)).replace(b"application/json", random.choice(_FORM_TYPES)),
    )
    return random.choice(kinds)


_TYPES = (
    *(b"text/plain", b"", b"application/json; charset=utf-16", b"application/json;;;", b"multipart/form-data"),
    *(
        b"application/x-www-form-urlencoded",
        b"application/jsonx",
        b"\xff\xfe",
        b"a" * 500,
        b"application/json, text/html",
    ),
)
_FORM_TYPES = (
    *(
        b"multipart/form-data; boundary=x",
        b"multipart/form-data; boundary=",
        b"multipart/form-data",
        b"multipart/mixed",
    ),
    *(b'multipart/form-data; boundary="x', b"multipart/form-data; boundary=" + b"y" * 300),
)


def _multipart(random: Random) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../a\x00.wav"\r\n'
    whole = (
        head
        + b"Content-Type: audio/wav\r\n\r\nRIFF....\r\n--x\r\n"
        + head.replace(b"file", b"model")
        + b"\r\n\r\nx\r\n--x--\r\n"
    )
    return broken(random, whole)


def framed(random: Random) -> bytes:
    """A request whose lines the parser under everything has to refuse."""
    lines = [b"POST /v1/completions HTTP/1.1", b"Host: localhost", b"Content-Type: application/json"]
    body = b'{"prompt": "x", "max_tokens": 1}'
    lines.append(b"Content-Length: %d" % len(body))
    for _ in range(random.randint(1, 2)):
        fault = random.randrange(6)
        if fault == 0:
            lines[0] = random.choice(_REQUEST_LINES)
        elif fault in (1, 2):
            lines.insert(random.randint(1, len(lines)), random.choice(_HEADERS))
        elif fault == 3:
            lines.pop(random.randrange(1, len(lines)))
        elif fault == 4:
            lines[random.randrange(len(lines))] = broken(random, lines[random.randrange(len(lines))] or b"x")
        else:
            body = broken(random, body)
    end = random.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    return end.join((*lines, b"", b"")) + body


_REQUEST_LINES = (
    *(b"GET / HTTP/1.1", b"GET /health HTTP/9.9", b"GET /health", b"GET  /health HTTP/1.1", b"get /health HTTP/1.1"),
    *(
        b"PRI * HTTP/2.0",
        b"CONNECT localhost:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"TRACE /health HTTP/1.1",
        b"\x16\x03\x01",
    ),
    *(b"POST //v1/completions HTTP/1.1", b"POST /v1/%63ompletions HTTP/1.1", b"POST /v1/../v1/completions HTTP/1.1"),
    *(b"POST /v1/completions/ HTTP/1.1", b"POST /v1/completions?x=%00 HTTP/1.1", b"GET /v1/models/%2e%2e/%00 HTTP/1.1"),
    *(b"GET http://evil.example/v1/models HTTP/1.1", b"GET /" + b"a" * 9000 + b" HTTP/1.1", b"GET /\xff\xfe HTTP/1.1"),
    *(
        b"DELETE /v1/models/x HTTP/1.1",
        b"PUT /v1/completions HTTP/1.1",
        b"HEAD /v1/models HTTP/1.1",
        b"GET /metrics HTTP/1.0",
    ),
    *(
        b"A" * 20000,
        b"",
        b" ",
        b"GET",
        b"GET /health HTTP/1.1\rX: y",
        b"GET /v1/models/" + b"%F0%9F" * 50 + b" HTTP/1.1",
    ),
)
_HEADERS = (
    *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 1, 1"),
    *(
        b"Content-Length: +3",
        b"Content-Length: 0x10",
        b"Content-Length: 3 3",
        b"Content-Length:",
        b"Content-Length: 70000000",
    ),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip, chunked"),
    *(b"Transfer-Encoding: identity", b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked", b"TE: trailers"),
    *(
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"Connection: upgrade, close",
    ),
    *(
        b"Connection: keep-alive, keep-alive",
        b"Host: evil.example",
        b"Host: localhost",
        b"Host:",
        b"Host: [::1",
        b": x",
    ),
    *(
        b"X-Request-Id: \xff\x01",
        b"X-Request-Id: " + b"a" * 200,
        b"X: " + b"b" * 9000,
        b"no colon",
        b" folded: x",
        b"X\x00: y",
    ),
    *(
        b"Authorization: Bearer \xff",
        b"Authorization: " + b"x" * 3000,
        b"Cookie: " + b"a=b; " * 500,
        b"Range: bytes=0-1",
    ),
    *(b"\r\nGET /metrics HTTP/1.1\r\nHost: localhost", b"X: y\nZ: w", b"X: y\rZ: w", b"Content-Encoding: gzip", b"\t"),
    b"\r\n".join(b"H%d: v" % n for n in range(120)),
)


def chunked(random: Random) -> bytes:
    """Chunked bodies with wrong sizes, extensions, trailers and ends."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    body = b'{"prompt": "x", "max_tokens": 1}'
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])
    return head + broken(random, chunks)


def noise(random: Random) -> bytes:
    """Bytes without any meaning."""
    return random.randbytes(random.randint(1, 400)) + b"\r\n\r\n"
