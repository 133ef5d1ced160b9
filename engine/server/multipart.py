"""Forms of clients: a multipart body to its fields (RFC 7578), in one pass over bytes that are here already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from engine.errors import InvalidRequest

MAX_PARTS = 32
_MAX_HEADER_BYTES = 8 * 1024
_PLAIN_CODINGS = ("", "7bit", "8bit", "binary")


@dataclass(frozen=True, slots=True)
class FormField:
    """One part; `filename` is None for a plain value."""

    name: str
    filename: str | None
    data: bytes

    @property
    def text(self) -> str:
        """The value as text.

        Raises:
            InvalidRequest: it is not UTF-8.
        """
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name[:100]} is not UTF-8", param=self.name[:100]) from None


def parse_form(body: bytes, content_type: str) -> list[FormField]:
    """Fields in the order sent.

    Raises:
        InvalidRequest: the body is no form, or has too many parts.
    """
    boundary = _parameter(content_type, "boundary") or ""
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise _malformed("the Content-Type names no boundary")
    return [_field(part) for part in _parts(body, b"--" + boundary.encode())]


def _parts(body: bytes, delimiter: bytes) -> Iterator[bytes]:
    """What lies between delimiters: each starts a line, the last one has two more hyphens."""
    if not body.startswith(delimiter):
        start = body.find(b"\r\n" + delimiter)
        if start < 0:
            raise _malformed("no part begins")
        body = body[start + 2 :]
    pieces = body[len(delimiter) :].split(b"\r\n" + delimiter, MAX_PARTS + 1)
    for count, piece in enumerate(pieces):
        if piece.startswith(b"--"):
            return
        if count == MAX_PARTS:
            raise _malformed(f"it has more than {MAX_PARTS} parts")
        line, found, part = piece.partition(b"\r\n")
        if not found or line.strip(b" \t"):
            raise _malformed("a part is cut off")
        yield part
    raise _malformed("its end is missing")


def _field(part: bytes) -> FormField:
    head, found, data = (b"", b"\r\n", part[2:]) if part.startswith(b"\r\n") else part.partition(b"\r\n\r\n")
    if not found or len(head) > _MAX_HEADER_BYTES:
        raise _malformed("a part has no end of its headers")
    headers = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    disposition = headers.get("content-disposition", "")
    name = _parameter(disposition, "name")
    if disposition.partition(";")[0].strip().lower() != "form-data" or name is None:
        raise _malformed("a part has no name")
    if headers.get("content-transfer-encoding", "").lower() not in _PLAIN_CODINGS:
        raise _malformed("a part has a transfer encoding")
    return FormField(name, _parameter(disposition, "filename"), data)


def _parameter(value: str, name: str) -> str | None:
    """A parameter of a header's value, read by the standard library."""
    header = Message()
    header["content-type"] = value.replace("\r", " ").replace("\n", " ")
    found = header.get_param(name)
    return found[2] if isinstance(found, tuple) else found  # (charset, language, text) where it is encoded


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest(f"The request body is not valid multipart/form-data: {what}.")
