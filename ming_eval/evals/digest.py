"""Digests that are equal on every platform and in every process."""

from __future__ import annotations

import hashlib

import msgspec


def digest(*parts: object) -> str:
    """SHA-256 of JSON-like values, as hexadecimal; the order of keys in maps does not matter."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as hexadecimal."""
    return hashlib.sha256(data).hexdigest()
