"""How deep and how large JSON is, told before it is parsed.

The parser runs in a thread, but holds the interpreter while it works: what it is given must not keep it busy for
long, or the event loop stands still. The scan works in windows, between which other threads get their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from engine.errors import InvalidRequest

MAX_DEPTH = 64
MAX_CONTAINERS = 100_000  # objects and lists; the largest request that makes sense has a few thousand
MAX_STRINGS = 1_000_000  # keys and values

_WINDOW_BYTES = 1 << 20
_BACKSLASHES = re.compile(rb"\\*")
_QUOTE = ord('"')
_STEPS = np.zeros(256, np.int8)  # what a byte outside strings does to the depth
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1


def check_shape(body: bytes) -> None:
    """Refuse what is too deep or has too many parts.

    Raises:
        InvalidRequest: naming the limit.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH and body.count(b'"') <= 2 * MAX_STRINGS:
        return  # within all limits even if none of them is inside a string; media in base64 goes this way
    depth, in_string, num_containers, num_quotes = 0, False, 0, 0
    for window in _windows(body):
        codes = np.frombuffer(window.replace(b"\\\\", b"__").replace(b'\\"', b"__"), np.uint8)
        quotes = codes == _QUOTE
        inside = np.logical_xor.accumulate(quotes) ^ in_string
        steps = np.where(inside, 0, _STEPS[codes])
        levels = depth + np.cumsum(steps, dtype=np.int32)
        num_containers += int(np.count_nonzero(steps > 0))
        num_quotes += int(np.count_nonzero(quotes))
        _check(int(levels.max()), num_containers, num_quotes // 2)
        depth, in_string = int(levels[-1]), bool(inside[-1])


def _windows(body: bytes) -> Iterator[bytes]:
    """The body in pieces, none of which ends within an escape."""
    start = 0
    while start < len(body):
        end = start + _WINDOW_BYTES
        run = _BACKSLASHES.match(body, end - 1)
        if run is not None and run.end() > end - 1:
            end = run.end() + 1
        yield body[start:end]
        start = end


def _check(depth: int, num_containers: int, num_strings: int) -> None:
    if depth > MAX_DEPTH:
        raise _too_much(f"nests more than {MAX_DEPTH} levels deep")
    if num_containers > MAX_CONTAINERS:
        raise _too_much(f"has more than {MAX_CONTAINERS} objects and lists")
    if num_strings > MAX_STRINGS:
        raise _too_much(f"has more than {MAX_STRINGS} strings")


def _too_much(what: str) -> InvalidRequest:
    return InvalidRequest(f"The request body {what}.", code="invalid_json")
