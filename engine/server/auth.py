"""Who may ask: bearer keys, and the Host check that keeps web pages away from a loopback server."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.errors import ConfigError

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::[0-9]*)?")


class KeyRing:
    """SHA-256 digests of the accepted keys; the keys themselves are not kept."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests: Sequence[bytes] = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def tenant(self, authorization: str | None) -> str | None:
        """A name for the key in an Authorization header, the same each time; None if it is not an accepted one."""
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]  # all of them: no early exit
        return given.hex()[:16] if scheme.lower() == "bearer" and any(matches) else None


def read_keys(path: Path) -> list[str]:
    """Keys of a file, one a line; blank lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file cannot be read or holds no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file {path}: cannot be read ({type(error).__name__})") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"--api-key-file {path}: holds no key; put one on a line")
    return keys


def is_loopback(host: str) -> bool:
    """Whether a host name or address (no port) can only mean this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def host_of(header: str) -> str:
    """The host in a Host header, without its port; empty if it is none."""
    found = _HOST.fullmatch(header)
    return found[1] if found else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
