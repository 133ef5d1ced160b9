"""What happens below the routes: the envelope for every status, bodies, headers, labels, Host and connections."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from typing import Any

import aiohttp
import pytest

from engine.errors import ConfigError
from engine.server import http
from engine.server.auth import KeyRing
from engine.server.http import bind
from engine.server.service import Service
from tests.engine.server.endpoint import Endpoint, chat_body, endpoint, on_loop
from tests.engine.server.fake_engine import FakeEngine, says

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


async def post_bytes(server: Endpoint, data: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and error of a chat request with this body."""
    async with server.session.post(server.url + CHAT, data=data, headers=JSON | headers) as response:
        reply = await response.json()
        return response.status, reply.get("error", reply)


def parse_raw(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, lower-case headers and body of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


@on_loop
async def test_envelope_has_its_four_keys() -> None:
    async with endpoint() as server:
        for path, status, code in (("/nothing", 404, "not_found"), (CHAT, 405, "method_not_allowed")):
            got, reply = await server.get(path)
            assert got == status
            assert reply["error"].keys() == {"message", "type", "param", "code"}
            assert (reply["error"]["type"], reply["error"]["code"]) == ("invalid_request_error", code)


@on_loop
async def test_wrong_method_names_the_right_ones() -> None:
    async with endpoint() as server:
        async with server.session.get(server.url + CHAT) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
        async with server.session.post(server.url + "/health") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/v1", "/v1/chat/completions/", "/v1/load_lora_adapter", "/sleep", "/ping"]
)
@on_loop
async def test_there_is_no_other_route(path: str) -> None:
    async with endpoint() as server:
        assert (await server.get(path))[0] == 404
        assert (await server.post(path, {}))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"a": 1} x',
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"x": ' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"x": ' * 100_000,
        b"[" * 1_000_000,
    ],
    ids=lambda body: repr(body[:24]),
)
@on_loop
async def test_invalid_json(body: bytes) -> None:
    async with endpoint() as server:
        status, error = await post_bytes(server, body)
    assert (status, error["code"], error["param"]) == (400, "invalid_json", None)


@on_loop
async def test_sixty_four_levels_are_allowed() -> None:
    body = json.dumps(chat_body())[:-1].encode() + b', "x": ' + b"[" * 63 + b"]" * 63 + b"}"
    async with endpoint() as server:
        assert (await post_bytes(server, body))[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@on_loop
async def test_content_type_must_be_json(kind: str) -> None:
    async with endpoint() as server:
        status, error = await post_bytes(server, b"{}", **{"Content-Type": kind})
    assert (status, error["code"]) == (415, "unsupported_media_type")


@on_loop
async def test_content_coding() -> None:
    body = json.dumps(chat_body()).encode()
    async with endpoint() as server:
        assert (await post_bytes(server, gzip.compress(body), **{"Content-Encoding": "gzip"}))[0] == 200
        status, error = await post_bytes(server, body, **{"Content-Encoding": "br"})
        assert (status, error["code"]) == (415, "unsupported_media_type")
        for broken in (b"not gzip at all", gzip.compress(body)[:-9]):
            status, error = await post_bytes(server, broken, **{"Content-Encoding": "gzip"})
            assert (status, error["code"]) == (400, "invalid_value")


@on_loop
async def test_small_body_that_expands_enormously() -> None:
    bomb = gzip.compress(b" " * (20 << 20))
    async with endpoint(max_body_bytes=8 << 20) as server:
        status, error = await post_bytes(server, bomb, **{"Content-Encoding": "gzip"})
    assert (status, error["code"]) == (413, "body_too_large")


@on_loop
async def test_body_limit_counts_decoded_bytes() -> None:
    fits = json.dumps(chat_body(x="a" * 900)).encode()
    async with endpoint(max_body_bytes=1000) as server:
        assert (await post_bytes(server, fits))[0] == 200
        large = fits + b" " * 1000
        for data, headers in (
            (large, {}),
            (gzip.compress(large), {"Content-Encoding": "gzip"}),
        ):
            status, error = await post_bytes(server, data, **headers)
            assert (status, error["code"]) == (413, "body_too_large")
        assert server.engine.requests[1:] == []


@on_loop
async def test_body_limit_holds_for_chunked_bodies() -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 100

    async with (
        endpoint(max_body_bytes=1000) as server,
        server.session.post(server.url + CHAT, data=pieces(), headers=JSON) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (413, "body_too_large")


@on_loop
async def test_announced_size_is_refused_before_the_body_comes() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with endpoint(max_body_bytes=1000) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"Content-Length: 5000\r\n\r\n")
        assert b"413" in await reader.readline()
        assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")  # the rest is no next request
        writer.close()


@on_loop
async def test_tokenizer_routes_have_a_smaller_limit() -> None:
    body = {"tokens": [1], "x": "a" * (4 << 20)}
    async with endpoint() as server:
        status, error = await server.refused("/detokenize", body)
    assert (status, error["code"]) == (413, "body_too_large")


@on_loop
async def test_body_that_does_not_arrive() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with endpoint(body_timeout_s=0.05) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"Content-Length: 50\r\n\r\n{")
        assert b"408" in await reader.readline()
        assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")
        assert b'"code":"body_timeout"' in await reader.readuntil(b"}}")
        writer.close()


@on_loop
async def test_expect_continue() -> None:
    body = json.dumps(chat_body()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with endpoint() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert b"200" in await reader.readline()
        writer.close()
        status, _, answer = parse_raw(
            await server.raw(head + b"Connection: close\r\nExpect: a-miracle\r\nContent-Length: 0\r\n\r\n")
        )
        assert (status, json.loads(answer)["error"]["code"]) == (417, "invalid_value")


@on_loop
async def test_no_body_is_asked_for_that_would_be_refused() -> None:
    """Key, type and announced size are judged first; the connection ends, since the body may still come."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    key, kind = b"Authorization: Bearer k\r\n", b"Content-Type: application/json\r\n"
    async with endpoint(max_body_bytes=1000, keys=KeyRing(["k"])) as server:
        for more, size, expected in ((kind, 9, 401), (key, 9, 415), (key + kind, 5000, 413)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head + more + b"Content-Length: %d\r\n\r\n" % size)
            status, headers, _ = parse_raw(await reader.readuntil(b"\r\n\r\n"))
            assert (status, headers["connection"]) == (expected, "close")
            writer.close()
        body = json.dumps({"prompt": "Hi"}).encode()
        old = head.replace(b"1.1", b"1.0") + key + kind + b"Content-Length: %d\r\n\r\n" % len(body) + body
        assert (await server.raw(old)).startswith(b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"X-Long: " + b"a" * 9000 + b"\r\n", 431, "headers_too_large"),
        (b"".join(b"X-%d: %s\r\n" % (n, b"a" * 5000) for n in range(8)), 431, "headers_too_large"),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(150)), 400, "invalid_value"),
        (b"no colon here\r\n", 400, "invalid_value"),
    ],
)
@on_loop
async def test_header_limits(head: bytes, status: int, code: str) -> None:
    async with endpoint() as server:
        answer = await server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head + b"\r\n")
    got, headers, body = parse_raw(answer)
    assert (got, json.loads(body)["error"]["code"]) == (status, code)
    assert "x-request-id" in headers
    assert server.service.metrics.rejected == {code: 1}
    assert headers["server"] == "ming-eval"  # and no word of what it is made of


@on_loop
async def test_bytes_that_are_no_http() -> None:
    async with endpoint() as server:
        status, _, body = parse_raw(await server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"))
    assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [("my-request_1.2", True), ("a" * 128, True), ("a" * 129, False), ("no spaces", False), ("é", False), ("", False)],
)
@on_loop
async def test_request_label(sent: str, is_kept: bool) -> None:
    async with endpoint() as server:
        for path in ("/health", "/nothing"):
            async with server.session.get(server.url + path, headers={"X-Request-Id": sent}) as response:
                assert (response.headers["X-Request-Id"] == sent) is is_kept
                assert response.headers["X-Request-Id"]


@on_loop
async def test_one_label_on_two_requests_is_two_requests() -> None:
    async with endpoint() as server:
        label = {"X-Request-Id": "same"}
        both = await asyncio.gather(*(server.post(CHAT, chat_body(), **label) for _ in range(2)))
    assert [status for status, _ in both] == [200, 200]
    assert both[0][1]["id"] != both[1][1]["id"]


@pytest.mark.parametrize("bug", [ZeroDivisionError, BrokenPipeError])
@on_loop
async def test_bug_of_ours_says_nothing_about_itself(bug: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it looks as if the client had left."""

    def broken(self: Service) -> None:
        raise bug("secret")

    async with endpoint() as server:
        monkeypatch.setattr(Service, "serving", broken)
        headers = {"X-Request-Id": "label-1"}
        async with server.session.post(server.url + CHAT, json=chat_body(), headers=headers) as response:
            error = (await response.json())["error"]
            assert (response.status, error["type"], error["code"]) == (500, "server_error", "internal_error")
            assert response.headers["x-should-retry"] == "false"
            assert server.service.metrics.rejected == {"internal_error": 1}
    assert "label-1" in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:99", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:8000", 421),
        ("192.168.1.5", 421),
        ("localhost:1@evil.example", 421),
        ("localhost:", 200),
        ("[::1", 421),
        ("", 421),
    ],
)
@on_loop
async def test_host_on_loopback(host: str, status: int) -> None:
    async with endpoint() as server, server.session.get(server.url + "/health", headers={"Host": host}) as response:
        assert response.status == status
        assert status == 200 or (await response.json())["error"]["type"] == "invalid_request_error"


@on_loop
async def test_any_host_where_the_network_may_come() -> None:
    async with endpoint(loopback_only=False) as server:
        assert (await server.get("/health", Host="ming.example"))[0] == 200


@on_loop
async def test_connection_one_too_many_is_closed() -> None:
    async with endpoint(max_connections=2) as server:
        kept = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for _, writer in kept:
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all([(await reader.readline()).startswith(b"HTTP/1.1 200") for reader, _ in kept])
        assert await server.raw(b"") == b""
        assert server.service.metrics.rejected == {"too_many_connections": 1}
        for _, writer in kept:
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
@on_loop
async def test_connection_that_never_asks_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEPALIVE_S", 0.2)
    async with endpoint() as server:
        assert await asyncio.wait_for(server.raw(sent), 60.0) == b""


@pytest.mark.parametrize("path", [CHAT, "/health", "/nothing"])
@on_loop
async def test_refused_expectation_has_the_envelope(path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: a-miracle\r\n\r\n"
    async with endpoint() as server:
        status, headers, body = parse_raw(await server.raw(head.encode()))
    assert (status, json.loads(body)["error"]["code"]) == (417, "invalid_value")
    assert "x-request-id" in headers


@on_loop
async def test_connection_is_kept_alive() -> None:
    async with endpoint(FakeEngine(says("Hi"))) as server:
        opened = []
        trace = aiohttp.TraceConfig()

        async def count(*event: object) -> None:
            opened.append(event)

        trace.on_connection_create_end.append(count)
        async with aiohttp.ClientSession(trace_configs=[trace]) as session:
            for stream in (True, False, True):
                async with session.post(server.url + CHAT, json=chat_body(stream=stream)) as response:
                    await response.read()
    assert len(opened) == 1


def test_port_in_use() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*in use; choose another --port"):
            bind("127.0.0.1", port)


def test_host_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="choose another --host"):
        bind("256.1.1.1", 0)


def test_any_free_port() -> None:
    with bind("localhost", 0) as sock:
        assert isinstance(sock, socket.socket)
        assert sock.getsockname()[1] > 0
