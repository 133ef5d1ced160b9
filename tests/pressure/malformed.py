"""Requests that are wrong in every layer, drawn from a seed: HTTP, codings, JSON, fields, and media files.

Each begins as a request that the server would answer. Some come out valid after all; that is no harm, they ask for
little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tests.pressure.malformed_bodies import body_of, broken, mutated_body, path_of
from tests.pressure.malformed_http import chunked, coded, framed, noise
from tests.pressure.malformed_media import chat_with_media
from tests.pressure.wire import post


@dataclass(frozen=True)
class Malformed:
    """Bytes to send. `is_open` says that they may be no complete request: the server may wait for more until the
    client closes its side, and need not answer."""

    kind: str
    data: bytes
    is_open: bool


def malformed(random: Random) -> Malformed:
    """One request, of a kind drawn by weight."""
    kind = random.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    return Malformed(kind, _KINDS[kind][1](random), kind in _OPEN)


def _fields(random: Random) -> bytes:
    path = path_of(random)
    return post(path, mutated_body(random, path))


def _json(random: Random) -> bytes:
    path = path_of(random)
    return post(path, broken(random, body_of(path)))


_KINDS: Mapping[str, tuple[int, Callable[[Random], bytes]]] = {
    "fields": (45, _fields),
    "json": (20, _json),
    "coding": (8, coded),
    "http": (18, framed),
    "chunked": (4, chunked),
    "noise": (3, noise),
    "media": (2, chat_with_media),
}
_OPEN = ("http", "chunked", "noise")
