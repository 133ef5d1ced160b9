"""Limits on JSON before it is parsed: counted exactly, and never inside strings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.server import shape
from engine.server.shape import check_shape


def nested(depth: int) -> bytes:
    lists, objects = depth // 2, depth - depth // 2
    return b"[" * lists + b'{"a":' * objects + b"1" + b"}" * objects + b"]" * lists


def is_refused(body: bytes) -> bool:
    try:
        check_shape(body)
    except InvalidRequest as error:
        return error.code == "invalid_json"
    return False


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (nested(64), False),
        (nested(65), True),
        (b"[" + nested(63) + b"," + nested(63) + b"]", False),
        (b"[" + nested(63) + b"," + nested(64) + b"]", True),
        (b'["' + b"[{" * 100 + b'\\"' + b"[{" * 100 + b'"]', False),
        (b'["' + b"\\\\" * 3 + b'",' + b"[" * 100, True),  # the string ends: its backslashes are pairs
        (b"[" + b"[],{}," * 500 + b"1]", False),
        (b"[" * 1_000_000, True),
    ],
)
def test_depth(body: bytes, refused: bool) -> None:
    assert is_refused(body) is refused


def test_number_of_parts() -> None:
    assert not is_refused(b"[" + b"[]," * 99_998 + b"[]]")
    assert is_refused(b"[" + b"[]," * 99_999 + b"[]]")
    assert not is_refused(b"[" + b'"",' * 999_999 + b'""]')
    assert is_refused(b"[" + b'"",' * 1_000_000 + b'""]')


JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab[]{}"\\', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\[', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(value=JSON, limit=st.integers(0, 4), window=st.integers(1, 9))
def test_any_window_gives_the_depth(value: Any, limit: int, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "MAX_DEPTH", limit)
        patch.setattr(shape, "_WINDOW_BYTES", window)
        assert is_refused(json.dumps(value).encode()) is (depth_of(value) > limit)
