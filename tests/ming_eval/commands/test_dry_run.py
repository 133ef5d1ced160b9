"""`sweep --dry-run` shows what would be sent and sends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes import FakeServer, Script
from tests.ming_eval.commands.sweeps import sweep


def test_table_and_first_request_without_a_word_to_the_server(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script()) as server:
        options = ("--concurrency", "1,8", "--requests", "20", "--max-tokens", "7", "--model", "m", "--dry-run")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
        assert server.seen == []
    assert result.exit_code == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    lines = result.stdout.splitlines()
    assert lines[2].split() == ["c=1", "1", "20", "140", "-"]
    assert lines[3].split() == ["c=8", "8", "20", "140", "-"]
    assert "49 requests to 1 backend, warm-up included." in result.stdout
    body = json.loads(lines[-1])
    assert (body["model"], body["max_completion_tokens"], body["stream"]) == ("m", 7, True)


def test_the_first_request_is_the_one_that_is_sent_first(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script()) as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "1", "--warmup", "0")
        shown = json.loads(sweep(tmp_path, *options, "--model", "fake-model", "--dry-run").stdout.splitlines()[-1])
        sweep(tmp_path, *options)
        (sent,) = server.chats
    assert shown == sent.body


def test_token_ids_are_those_of_the_run_where_the_server_is_not_asked(tmp_path: Path) -> None:
    raw = ("--api", "completions", "--input-tokens", "20", "--vocabulary", "9")
    with FakeServer.in_thread(Script()) as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "1", "--warmup", "0", *raw)
        shown = sweep(tmp_path, *options, "--model", "fake-model", "--dry-run").stdout
        sweep(tmp_path, *options)
        (sent,) = server.completions
    assert json.loads(shown.splitlines()[-1]) == sent.body
    assert f"to {server.url}/v1/completions" in shown
    guessed = sweep(tmp_path, "--api", "completions", "--input-tokens", "900", "--dry-run").stdout
    assert "asked of the server: the model; its token ids, here 1000" in guessed
    assert len(guessed.splitlines()[-1]) < 600


@pytest.mark.slow
def test_a_closed_loop_has_a_time_once_the_server_was_measured(tmp_path: Path) -> None:
    """Requests of 4 tokens took some time at one in flight; 8 of 8 tokens at two in flight: 4 waves of twice that."""
    with FakeServer.in_thread(Script(first_s=0.01, gap_s=0.005)) as server:
        options = ("--backend", f"s={server.url}", "--requests", "8")
        sweep(tmp_path, *options, "--concurrency", "1", "--max-tokens", "4")
        (folder,) = tmp_path.iterdir()
        result = sweep(tmp_path, *options, "--concurrency", "2", "--max-tokens", "8", "--repeats", "3", "--dry-run")
        other = sweep(tmp_path, "--backend", "x=http://127.0.0.1:9", "--concurrency", "2", "--dry-run")
    (point,) = json.loads((folder / "summary.json").read_text())["points"]
    load, *_, seconds = result.stdout.splitlines()[2].split()
    assert (load, float(seconds)) == ("c=2", pytest.approx(8 * point["e2e_ms"]["mean"] / 1000, rel=0.02))
    assert "30 requests to 1 backend in 3 passes, warm-up included." in result.stdout
    assert f"guessed from {folder.name}" in result.stdout
    assert other.stdout.splitlines()[2].split()[-1] == "-"


def test_an_open_loop_has_a_time(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--backend", "s=http://127.0.0.1:9", "--rate", "2,4", "--requests", "20", "--dry-run")
    rows = [line.split() for line in result.stdout.splitlines()[2:4]]
    assert [(row[0], row[2], row[4]) for row in rows] == [("2/s", "20", "10.0"), ("4/s", "20", "5.00")]
