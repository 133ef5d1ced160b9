"""Requests of two runs, digest by digest."""

from __future__ import annotations

from ming_eval.load.repeat import compare_requests
from ming_eval.types import RequestRecord
from tests.ming_eval.factories import make_record


def records(**digests: str | None) -> list[RequestRecord]:
    return [make_record(id=name, request_sha256=digest) for name, digest in digests.items()]


def test_requests_are_counted_as_same_other_missing_or_unknown() -> None:
    first = [
        make_record(id=name, request_sha256=digest)
        for name, digest in (("a", "1"), ("b", "2"), ("c", None), ("d", "4"))
    ]
    second = [
        make_record(id=name, request_sha256=digest) for name, digest in (("a", "1"), ("b", "x"), ("c", "3"), ("e", "5"))
    ]
    found = compare_requests(first, second)
    assert (found.same, found.other, found.missing, found.unknown) == (1, ("b",), 2, 1)
    assert not found.is_exact
    assert str(found) == (
        "request bodies: 1 of 2 are the same bytes, 2 in one run only, 1 stored without a digest, "
        "the first that differs is b"
    )


def test_a_request_belongs_to_its_backend() -> None:
    first = [make_record(backend=name, request_sha256=name) for name in ("a", "b")]
    assert str(compare_requests(first, reversed(first))) == "request bodies: 2 of 2 are the same bytes"
