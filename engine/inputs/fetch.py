"""Media by URL: `data:` always, http(s) only from hosts that the operator named, and never from a private address.

A URL is parsed once, and what was parsed is what is fetched. Every answer of the name lookup is checked, the connection
goes to a checked address, and each redirect starts again as a new URL. The client is told that a URL is not allowed,
never which address its name had.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from engine.core.request import MediaKind
from engine.errors import InvalidRequest
from engine.inputs.media import EncodedMedia, invalid_media, media_too_large, parse_data_url

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]
IsAllowed = Callable[[Address], bool]

MAX_BYTES = 32 << 20
MAX_REDIRECTS = 3
MAX_URL_CHARS = 8192
CONNECT_LIMIT_S = 5.0
TOTAL_LIMIT_S = 20.0
_CHUNK = 1 << 16

_URL = re.compile(
    r"https?://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:[/?#][!-\[\]-~]*)?",  # printable ASCII without the backslash
    re.IGNORECASE | re.ASCII,
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}", re.IGNORECASE)
_NUMERIC_END = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$", re.IGNORECASE)  # read as IPv4 by lenient parsers

_GLOBAL_V6 = IPv6Network("2000::/3")  # NAT64 lies outside
_REFUSED = (
    *(IPv4Network("100.64.0.0/10"), IPv4Network("192.88.99.0/24")),  # shared between customers; 6to4 relays
    *(IPv6Network("2001::/32"), IPv6Network("2002::/16")),  # Teredo and 6to4, which hold an IPv4 address
)


async def resolve_with_system(host: str, port: int) -> list[str]:
    """All addresses of a name, IPv4 and IPv6."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def is_public(address: Address) -> bool:
    """False for everything that is not plain public unicast; IPv4 inside IPv6 is judged as IPv4."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _REFUSED)


class MediaFetcher:
    """Loads media URLs. `hosts` are the exact names that http(s) may be used with; none turns it off.

    `resolve` and `is_allowed` are the system's lookup and `is_public` except in tests.
    """

    def __init__(
        self,
        hosts: Collection[str] = (),
        *,
        resolve: Resolve = resolve_with_system,
        is_allowed: IsAllowed = is_public,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._resolver = _CheckedResolver(resolve, is_allowed)
        self._is_allowed = is_allowed

    async def load(self, kind: MediaKind, url: str) -> EncodedMedia:
        """The file behind a URL, with the type that the URL or the server claims.

        Raises:
            InvalidRequest: of code media_url_not_allowed, media_too_large or invalid_media.
        """
        if url[:5].lower() == "data:":
            return await asyncio.to_thread(parse_data_url, url, kind)  # tens of megabytes, perhaps
        target = self._check(url)
        try:
            async with asyncio.timeout(TOTAL_LIMIT_S):
                return await self._fetch(kind, target)
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            raise _unreachable(kind) from None

    async def _fetch(self, kind: MediaKind, target: URL) -> EncodedMedia:
        connector = aiohttp.TCPConnector(resolver=self._resolver, use_dns_cache=False, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            for _ in range(MAX_REDIRECTS + 1):
                headers = {"Accept-Encoding": "identity"}
                async with session.get(target, allow_redirects=False, headers=headers) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        return await _read(kind, response)
                    target = self._redirect(target, response.headers.get("Location", ""))
        raise invalid_media(f"the {kind} URL redirects more than {MAX_REDIRECTS} times")

    def _redirect(self, source: URL, location: str) -> URL:
        """The next URL, checked like the first; a relative location is resolved before."""
        try:
            target = self._check(str(source.join(URL(location))))
        except ValueError:
            raise _not_allowed() from None
        if source.scheme == "https" and target.scheme != "https":
            raise _not_allowed()
        return target

    def _check(self, url: str) -> URL:
        """Parse a URL whose host may be asked; names are looked up later, addresses are checked here."""
        match = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
        if match is None:
            raise _not_allowed() if url.startswith(("http://", "https://")) else _no_media_url()
        host = match["host"].lower().strip("[]")
        try:
            target = URL(url)
            address = ip_address(host) if ":" in host or _NUMERIC_END.search(host) else None
        except ValueError:
            raise _not_allowed() from None
        canonical = str(address) == host and self._is_allowed(address) if address else _NAME.fullmatch(host)
        if not canonical or host not in self._hosts or target.host != host:
            raise _not_allowed()
        return target


class _CheckedResolver(AbstractResolver):
    """Gives the connector only names all of whose addresses are allowed; it connects to what it is given here."""

    def __init__(self, resolve: Resolve, is_allowed: IsAllowed) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family  # addresses of both are checked, and all are offered
        addresses = [ip_address(text) for text in await self._resolve(host, port)]
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise _not_allowed()
        return [_resolved(host, port, address) for address in addresses]

    async def close(self) -> None:
        """Nothing is held."""


def _resolved(host: str, port: int, address: Address) -> ResolveResult:
    return ResolveResult(
        hostname=host,  # stays the name for Host and TLS
        host=str(address),
        port=port,
        family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )


async def _read(kind: MediaKind, response: aiohttp.ClientResponse) -> EncodedMedia:
    if response.status != 200:
        raise _unreachable(kind)
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise invalid_media(f"the {kind} URL answers with a content coding; serve the file as it is")
    if (response.content_length or 0) > MAX_BYTES:
        raise _too_large(kind)
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        data += chunk
        if len(data) > MAX_BYTES:
            raise _too_large(kind)
    if not data:
        raise invalid_media(f"the {kind} is empty")
    return EncodedMedia((bytes(data),), response.headers.get("Content-Type"))


def _not_allowed() -> InvalidRequest:
    return InvalidRequest(
        "this media URL is not allowed; send the file in a data: URL, or ask the operator to allow its host",
        code="media_url_not_allowed",
    )


def _no_media_url() -> InvalidRequest:
    return InvalidRequest(
        "this media URL is not allowed; only data: URLs and, from hosts that the operator allows, http(s) are taken",
        code="media_url_not_allowed",
    )


def _unreachable(kind: MediaKind) -> InvalidRequest:
    return invalid_media(f"the {kind} could not be fetched from its URL")


def _too_large(kind: MediaKind) -> InvalidRequest:
    return media_too_large(f"the {kind} is larger than {MAX_BYTES >> 20} MiB; send a smaller file")
