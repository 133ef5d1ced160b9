"""Server-sent events: any cut of the bytes gives the events of the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ming_eval.client.sse import EventSplitter

Events = list[tuple[str, bytes]]


def split(*pieces: bytes) -> Events:
    splitter = EventSplitter()
    return [event for piece in pieces for event in splitter.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a \n\n", [("", b" a ")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
        (b"data: a\n\r\ndata: b\r\n\n", [("", b"a"), ("", b"b")]),
        (b"data: one\ndata: two\n\n", [("", b"one\ntwo")]),
        (b"data: one\r\ndata: two\r\n\r\n", [("", b"one\ntwo")]),
        (b"data\n\ndata\ndata\n\ndata:", [("", b""), ("", b"\n")]),
        (b": ping\n\ndata: a\n\n", [("", b"a")]),
        (b": ping\ndata: a\n: pong\n\n", [("", b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [("error", b"a"), ("", b"b")]),
        (b"event: lone\n\ndata: a\n\n", [("", b"a")]),
        (b"id: 7\nretry: 10\nunknown: x\ndata: a\n\n", [("", b"a")]),
        (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),  # a BOM leads the stream or is text
        (b'data: {"a": "\xe2\x82\xac: x"}\n\n', [("", b'{"a": "\xe2\x82\xac: x"}')]),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"", []),
    ],
)
def test_events_of_a_stream(stream: bytes, events: Events) -> None:
    assert split(stream) == events
    assert split(*(stream[i : i + 1] for i in range(len(stream)))) == events


def test_carriage_return_ends_a_line_before_its_newline_comes() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\r\n\r") == [("", b"a")]  # not held back for a byte that may never come
    assert splitter.feed(b"\ndata: b\r\n\r\n") == [("", b"b")]


def test_large_event_in_many_pieces() -> None:
    data = bytes(range(32, 127)) * 10_000
    stream = b"data: " + data + b"\n\n"
    assert split(*(stream[i : i + 4096] for i in range(0, len(stream), 4096))) == [("", data)]


pieces = st.sampled_from(
    [b"data: x", b"data", b"data:", b": c", b"event: e", b"\n", b"\n\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"a", b" "]
)
streams = st.lists(pieces, max_size=30).map(b"".join)


@given(stream=streams, cuts=st.lists(st.integers(0, 120), max_size=12))
@example(stream=b"data: a\r\n\r\ndata: b\r\n\r\n", cuts=[8, 8, 9, 10, 11])
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert split(*(stream[a:b] for a, b in pairwise(edges))) == by_the_book(stream)


def by_the_book(stream: bytes) -> Events:
    """The standard's algorithm, line by line over the whole stream."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: Events = []
    data, name, has_data = b"", b"", False
    for line in text.split(b"\n")[:-1]:  # the last one is not ended by a newline
        if not line:
            if has_data:
                events.append((name.decode(), data[:-1]))
            data, name, has_data = b"", b"", False
        elif not line.startswith(b":"):
            key, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if key == b"data":
                data, has_data = data + value + b"\n", True
            elif key == b"event":
                name = value
    return events
