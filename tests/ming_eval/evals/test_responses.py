from __future__ import annotations

from pathlib import Path

import pytest

from ming_eval.errors import DataError
from ming_eval.evals.responses import Attempt, Response, ResponseLog, read_responses
from ming_eval.evals.retry import RetryPolicy
from ming_eval.run_folder import Redactor
from ming_eval.types import Failure


def response(key: str = "k", text: str = "C", *attempts: Attempt) -> Response:
    return Response(
        key=key, suite="s", backend="b", id="q", repeat=0, rotation=0, text=text, attempts=attempts or (Attempt(0.1),)
    )


def write(folder: Path, *responses: Response, secrets: tuple[str, ...] = ()) -> None:
    with ResponseLog(folder, Redactor(secrets)) as log:
        for each in responses:
            log.add(each)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, response("a"), response("b", "D", Attempt(0.2, "http_5xx", 500, "down", 1.0), Attempt(0.3)))
    assert read_responses(tmp_path) == {
        "a": response("a"),
        "b": response("b", "D", Attempt(0.2, "http_5xx", 500, "down", 1.0), Attempt(0.3)),
    }


def test_the_file_only_grows_and_the_last_line_of_a_key_holds(tmp_path: Path) -> None:
    write(tmp_path, response("a", ""))
    before = (tmp_path / "responses.jsonl").read_bytes()
    write(tmp_path, response("a", "C"))
    assert (tmp_path / "responses.jsonl").read_bytes().startswith(before)
    assert read_responses(tmp_path)["a"].text == "C"


def test_a_line_has_left_the_process_when_add_returns(tmp_path: Path) -> None:
    with ResponseLog(tmp_path, Redactor()) as log:
        log.add(response("a"))
        assert read_responses(tmp_path).keys() == {"a"}


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path, response("a"), response("b"))
    path = tmp_path / "responses.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert read_responses(tmp_path).keys() == {"a"}
    write(tmp_path, response("c"))
    assert read_responses(tmp_path).keys() == {"a", "c"}


def test_a_broken_line_inside_is_named(tmp_path: Path) -> None:
    write(tmp_path, response("a"))
    path = tmp_path / "responses.jsonl"
    path.write_bytes(b'{"key": 1}\n' + path.read_bytes())
    with pytest.raises(DataError, match=r"responses\.jsonl, line 1"):
        read_responses(tmp_path)


def test_secrets_that_a_server_echoes_are_not_kept(tmp_path: Path) -> None:
    write(
        tmp_path,
        response("a", "your key is sesame", Attempt(0.1, "http_4xx", 401, "bad key sesame")),
        secrets=("sesame",),
    )
    assert b"sesame" not in (tmp_path / "responses.jsonl").read_bytes()


def test_failures_and_first_latencies() -> None:
    failed = Attempt(0.2, Failure.HTTP_5XX, 500)
    assert response("a", "C", failed, Attempt(0.3)).failure is None
    assert response("a", "C", failed, Attempt(0.3)).first_latency_s is None  # only first attempts count
    assert response("a", "C", Attempt(0.3)).first_latency_s == 0.3
    assert response("a", "", failed).failure == Failure.HTTP_5XX
    assert response("a", "", Attempt(0.1, Failure.EMPTY)).failure is None  # a reply without content is a reply


@pytest.mark.parametrize(
    ("failure", "status", "waits"),
    [
        (Failure.CONNECT, None, [1, 2, 4, 8, None]),
        (Failure.TIMEOUT_TOTAL, None, [1, 2, 4, 8, None]),
        (Failure.RESET, None, [1, 2, 4, 8, None]),
        (Failure.HTTP_429, 429, [1, 2, 4, 8, None]),
        (Failure.HTTP_5XX, 503, [1, 2, 4, 8, None]),
        (Failure.HTTP_4XX, 408, [1, 2, 4, 8, None]),
        (Failure.HTTP_4XX, 400, [None]),
        (Failure.HTTP_4XX, 404, [None]),
        (Failure.MALFORMED, 200, [None]),
        (Failure.EMPTY, 200, [None]),
        (None, 200, [None]),
    ],
)
def test_which_failures_are_tried_again(failure: Failure | None, status: int | None, waits: list[float | None]) -> None:
    policy = RetryPolicy()
    assert [policy.wait_s(number, failure, status, None) for number in range(1, len(waits) + 1)] == waits


def test_the_hint_of_a_server_counts_up_to_a_minute() -> None:
    assert RetryPolicy().wait_s(1, Failure.HTTP_429, 429, 7.0) == 7.0
    assert RetryPolicy().wait_s(1, Failure.HTTP_429, 429, 3600.0) == 60.0
    assert RetryPolicy().wait_s(5, Failure.HTTP_429, 429, 7.0) is None
