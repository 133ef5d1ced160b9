"""Bytes in any split -> complete events: server-sent (WHATWG HTML, "Server-sent events"), or lines of JSON; pure."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"
# Integers, because looking for one in bytes is several times faster than looking for a string of one byte.
_CR, _LF = b"\r\n"


class EventSplitter:
    """Cuts one response body into events; `feed` takes the body's bytes in order, cut anywhere.

    An event that the body does not end with a blank line is dropped, as the standard says.
    """

    def __init__(self) -> None:
        self._pending: list[bytes] = []  # pieces of the event that is not complete yet
        self._at_start = True
        self._skip_newline = False

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The events completed by `data` as `(name, data)`; the name is empty where the stream gives none.

        Plain tuples, because making an object per event would cost as much as finding it.
        """
        if _CR in data or self._skip_newline:
            data = self._normalise(data)
        if not self._pending and (events := _one_line_events(data)):
            self._at_start = False
            return events
        if _LF not in data:  # cannot complete an event: keep a large one from being copied with each piece
            self._pending.append(data)
            return []
        if self._pending:
            data = b"".join((*self._pending, data))
        *blocks, rest = data.split(b"\n\n")
        self._pending = [rest] if rest else []
        if self._at_start and blocks:
            self._at_start = False
            blocks[0] = blocks[0].removeprefix(_BOM)
        return [event for block in blocks if (event := _parse(block)) is not None]

    def _normalise(self, data: bytes) -> bytes:
        """CRLF and CR become LF; a CR counts at once, and a LF that opens the next piece is then dropped."""
        if not data:
            return data
        if self._skip_newline:
            data = data.removeprefix(b"\n")
        self._skip_newline = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _one_line_events(data: bytes) -> list[tuple[str, bytes]]:
    """The events of nearly all arrivals: whole ones, each of one line; none where any is of another kind."""
    if data[:6] != b"data: " or data[-2:] != b"\n\n":
        return []
    if data.find(_LF) == len(data) - 2:
        return [("", data[6:-2])]
    values = data[6:-2].split(b"\n\ndata: ")
    return [("", value) for value in values] if data.count(_LF) == 2 * len(values) else []


class LineSplitter:
    """As `EventSplitter`, for a body with one JSON value a line (NDJSON); a last line without newline is dropped."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The lines completed by `data`, each with an empty name."""
        *lines, rest = data.split(b"\n")
        if lines and self._pending:
            lines[0] = b"".join((*self._pending, lines[0]))
            self._pending.clear()
        if rest:
            self._pending.append(rest)
        return [("", line) for line in map(bytes.strip, lines) if line]


def _parse(block: bytes) -> tuple[str, bytes] | None:
    """One event from its lines; None when it holds no data (comments, a lone name)."""
    if block.startswith(b"data: ") and _LF not in block:  # nearly all events
        return "", block[6:]
    name = b""
    values: list[bytes] = []
    for line in block.split(b"\n"):
        key, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if key == b"data":
            values.append(value)
        elif key == b"event":
            name = value
    return (name.decode("utf-8", "replace"), b"\n".join(values)) if values else None
