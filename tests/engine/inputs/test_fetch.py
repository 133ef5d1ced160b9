"""Fetching media: which URLs and addresses are allowed, and what is made of the answers of a local server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest
from aiohttp import web

from engine.errors import InvalidRequest
from engine.inputs import fetch
from engine.inputs.fetch import MediaFetcher, is_public
from engine.inputs.media import EncodedMedia

LOCAL = ip_address("127.0.0.1")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NAMES = {
    "media.example": ["127.0.0.1"],
    "other.example": ["127.0.0.1"],
    "private.example": ["10.0.0.1"],
    "half.example": ["127.0.0.1", "10.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nowhere.example": [],
}


async def resolve(host: str, port: int) -> list[str]:
    if host not in NAMES:
        raise OSError("no such name")
    return NAMES[host]


def fetcher(*hosts: str) -> MediaFetcher:
    """Allows the test server's address beside the public ones."""
    allowed = hosts or (*NAMES, "gone.example")
    return MediaFetcher(allowed, resolve=resolve, is_allowed=lambda address: address == LOCAL or is_public(address))


def load(url: str, loader: MediaFetcher | None = None) -> EncodedMedia:
    return asyncio.run((loader or fetcher()).load("image", url))


def load_from(handler: Handler, url: str = "http://media.example:{port}/a.png", *hosts: str) -> EncodedMedia:
    """Load a URL while a server on this machine answers every path with `handler`."""

    async def main() -> EncodedMedia:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, str(LOCAL), 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            return await fetcher(*hosts).load("image", url.format(port=port))
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def refused(call: Callable[[], EncodedMedia], code: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert (caught.value.code, caught.value.status) == (code, 400)
    return caught.value.message


async def picture(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"pixels", content_type="image/png")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "192.88.99.1",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "2002:a00:1::",
        "2002:808:808::1",
        "2001:0:1::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "100.63.255.255", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(ip_address(address))


def test_data_urls_need_no_permission() -> None:
    url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
    assert asyncio.run(MediaFetcher().load("image", url)) == EncodedMedia((b"pixels",), "image/png")


def test_http_is_off_by_default() -> None:
    message = refused(lambda: load("http://media.example/a.png", MediaFetcher()), "media_url_not_allowed")
    assert "127" not in message


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "a.png",
        "",
        "ftp://media.example/a.png",
        "//media.example/a.png",
        "http:media.example",
        "http:///a.png",
        "http://user@media.example/a.png",
        "http://user:pass@media.example/a.png",
        "http://media.example\\@private.example/",
        "http://media.example/a\\b",
        "http://media.example/a b",
        " http://media.example/",
        "http://media.example/\n",
        "http://media.example\t/",
        "http://media.example/\x00",
        "http://media.exämple/",
        "http://media.example/ä",
        "http://media%2eexample/",
        "http://media.example./",
        "http://.media.example/",
        "http://media_.example/",
        "http://media.example:99999/",
        "http://media.example:/",
        "http://media.example:80:80/",
        "http://unlisted.example/",
        "http://sub.media.example/",
        "http://" + "a" * 8192 + ".example/",
    ],
)
def test_urls_that_are_never_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MediaFetcher, "_fetch", None)
    refused(lambda: load(url), "media_url_not_allowed")


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "127.1",
        "2130706434",
        "0x7f.0.0.2",
        "0x7f000002",
        "0177.0.0.2",
        "127.0.0.02",
        "169.254.169.254",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "[2002:a00:1::]",
        "[fe80::1%25eth0]",
    ],
)
def test_private_and_odd_addresses_are_refused_even_when_listed(host: str) -> None:
    refused(lambda: load(f"http://{host}/", fetcher(host.strip("[]"))), "media_url_not_allowed")


@pytest.mark.parametrize(
    "host", ["private.example", "half.example", "metadata.example", "mapped.example", "nowhere.example"]
)
def test_every_address_of_a_name_is_checked(host: str) -> None:
    message = refused(lambda: load_from(picture, f"http://{host}:{{port}}/"), "media_url_not_allowed")
    assert "10.0" not in message


def test_an_unknown_name_is_not_reachable() -> None:
    assert "could not be fetched" in refused(lambda: load("http://gone.example/"), "invalid_media")


def test_a_file_and_its_type_arrive() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(body=b"pixels", content_type="image/png")

    url = "HTTP://MEDIA.example:{port}/dir/a.png?x=1&y=%20"
    assert load_from(handler, url) == EncodedMedia((b"pixels",), "image/png")
    (request,) = seen
    assert request.headers["Host"].startswith("media.example:")  # the name, though an address was connected to
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.raw_path == "/dir/a.png?x=1&y=%20"


def redirect_to(location: str, times: int = 1, status: int = 302) -> Handler:
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        if count > times:
            return await picture(request)
        return web.Response(status=status, headers={"Location": location.format(port=request.url.port)})

    return handler


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/b.png", "b.png", "http://other.example:{port}/b.png", "//other.example:{port}/"]
)
def test_redirects_are_followed(location: str, status: int) -> None:
    assert load_from(redirect_to(location, status=status)).parts == (b"pixels",)


def test_three_redirects_and_no_more() -> None:
    assert load_from(redirect_to("/again", times=3)).parts == (b"pixels",)
    assert "more than 3 times" in refused(lambda: load_from(redirect_to("/again", times=4)), "invalid_media")


@pytest.mark.parametrize(
    "location",
    [
        "http://private.example:{port}/",
        "http://metadata.example/latest/",
        "http://127.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://unlisted.example/",
        "http://user@media.example:{port}/",
        "file:///etc/passwd",
        "//private.example/",
        "http://[bad/",
        "http://media.example:99999/",
        "",
    ],
)
def test_redirects_are_checked_like_urls(location: str) -> None:
    hosts = ("media.example", "private.example", "metadata.example")
    url = "http://media.example:{port}/"
    if location:
        refused(lambda: load_from(redirect_to(location), url, *hosts), "media_url_not_allowed")
    else:  # points to itself
        refused(lambda: load_from(redirect_to(location, times=9), url, *hosts), "invalid_media")


def test_a_redirect_never_leaves_tls() -> None:
    loader = fetcher("media.example")
    with pytest.raises(InvalidRequest, match="not allowed"):
        loader._redirect(loader._check("https://media.example/a"), "http://media.example/a")
    assert loader._redirect(loader._check("https://media.example/a"), "/b").scheme == "https"
    assert loader._redirect(loader._check("http://media.example/a"), "https://media.example/b").scheme == "https"


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500])
def test_other_answers_are_no_file(status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    assert "could not be fetched" in refused(lambda: load_from(handler), "invalid_media")


def test_content_codings_are_refused() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b...", headers={"Content-Encoding": "gzip"})

    assert "content coding" in refused(lambda: load_from(handler), "invalid_media")


def test_an_empty_file_is_refused() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"", content_type="image/png")

    assert "empty" in refused(lambda: load_from(handler), "invalid_media")


@pytest.mark.parametrize("announced", [True, False])
def test_large_files_are_refused(announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1 << 20)
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        if announced:
            response.content_length = 8 << 20
        await response.prepare(request)
        for _ in range(128):
            await response.write(bytes(1 << 16))
            sent += 1 << 16
        return response

    assert "larger than 1 MiB" in refused(lambda: load_from(handler), "media_too_large")
    assert sent < 8 << 20  # it was not read to its end


def test_the_largest_file_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 6)
    assert load_from(picture).parts == (b"pixels",)


@pytest.mark.slow
def test_slow_servers_end_at_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TOTAL_LIMIT_S", 0.3)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"drop")
            await asyncio.sleep(0.1)
        return response

    assert "could not be fetched" in refused(lambda: load_from(handler), "invalid_media")


def test_a_connection_that_breaks_is_a_refusal() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    assert "could not be fetched" in refused(lambda: load_from(handler), "invalid_media")


def test_tls_asks_for_the_name_at_the_checked_address() -> None:
    """The handshake's first message carries the name in clear; the server then hangs up."""

    async def main() -> bytes:
        hello: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hello.set_result(await reader.read(4_096))
            writer.close()

        server = await asyncio.start_server(on_connect, str(LOCAL), 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(InvalidRequest, match="could not be fetched"):
                await fetcher().load("image", f"https://media.example:{port}/")
            return await hello

    assert b"media.example" in asyncio.run(main())
