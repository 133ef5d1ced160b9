"""Sweeps of servers that fail, and results that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import FakeServer, Fault, Script, every
from tests.ming_eval.commands.sweeps import FAST, run_folder, summary_of, sweep

pytestmark = pytest.mark.slow  # real processes, real files


@pytest.mark.parametrize(
    ("fault", "failure"),
    [(Fault.HTTP_500, "http_5xx"), (Fault.HTTP_429, "http_429"), (Fault.INBAND_ERROR, "inband_error")],
)
def test_failed_requests_are_counted_shown_and_give_exit_code_1(tmp_path: Path, fault: Fault, failure: str) -> None:
    """16 requests, every 4th fails: 12 good ones of 10 tokens."""
    with FakeServer.in_thread(every(4, Script(fault=fault), Script())) as server:
        options = ("--concurrency", "4", "--requests", "16", "--max-tokens", "10", "--warmup", "0")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 1
    (point,) = summary_of(tmp_path)["points"]
    assert (point["requests"], point["failed"], point["failures"]) == (16, 4, {failure: 4})
    assert (point["output_tokens"], point["ttft_ms"]["count"]) == (120, 12)
    assert f"4 of 16 requests failed (25 %): s c=4: 4 {failure}." in result.stdout
    assert f"\n{failure}, for example: {point['failure_examples'][failure]}\n" in result.stdout
    assert failure.replace("_", "\\_") + ", for example: " in (run_folder(tmp_path) / "summary.md").read_text()
    assert len(server.chats) == 16  # nothing was tried again
    assert summary_of(tmp_path)["verdict"]["exit_code"] == 1


def test_a_silent_server_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with FakeServer.in_thread(every(2, Script(fault=Fault.HANG, fault_at=3), Script())) as server:
        options = ("--concurrency", "1", "--requests", "4", "--warmup", "0", "--max-tokens", "5", "--timeout", "1")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 1
    (point,) = summary_of(tmp_path)["points"]
    assert point["failures"] == {"timeout_idle": 2}
    assert point["e2e_ms"]["count"] == 2


def test_max_error_rate_allows_failures_which_are_still_shown(tmp_path: Path) -> None:
    with FakeServer.in_thread(every(4, Script(fault=Fault.HTTP_500), Script())) as server:
        options = ("--concurrency", "1", "--requests", "8", "--warmup", "0", "--max-error-rate", "0.25")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0
    assert "2 of 8 requests failed" in result.stdout


def test_failures_in_the_warmup_count_nowhere_but_are_named(tmp_path: Path) -> None:
    with FakeServer.in_thread(lambda index: Script(fault=Fault.HTTP_500) if index < 2 else Script()) as server:
        result = sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "2", "--requests", "4")
    assert result.exit_code == 0
    (point,) = summary_of(tmp_path)["points"]
    assert (point["failed"], point["warmup_failed"]) == (0, 2)
    assert "2 of 2 warm-up requests failed" in result.stdout


def test_nobody_listening_is_one_line_exit_code_3_and_no_folder(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--backend", "s=http://127.0.0.1:1")
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert "http://127.0.0.1:1" in line
    assert "connection refused" in line
    assert not list(tmp_path.iterdir())


def test_a_server_that_goes_away_between_points_leaves_a_partial_run_and_exit_code_3(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as b, FakeServer.in_thread() as a:
        b.script = lambda index: _closing(b, index)
        options = ("--concurrency", "1,2", "--requests", "2", "--warmup", "0")
        result = sweep(tmp_path, "--backend", f"a={a.url}", "--backend", f"b={b.url}", *options)
    assert result.exit_code == 3
    summary = summary_of(tmp_path)
    assert summary["partial"] is True
    assert summary["verdict"]["status"] == "aborted"
    assert [(point["backend"], point["concurrency"]) for point in summary["points"]] == [("a", 1), ("b", 1)]


def _closing(server: FakeServer, index: int) -> Script:
    """The second request is the last one that this server takes."""
    if index == 1:
        assert server._server is not None
        server._server.close()
    return FAST


def test_results_that_cannot_be_written_are_exit_code_4_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with FakeServer.in_thread() as server:
        result = sweep(tmp_path / "file", "--backend", f"s={server.url}", "--concurrency", "1")
    assert result.exit_code == 4
    assert "--out" in result.stderr
    assert not server.chats


@pytest.mark.parametrize("place", ["nowhere/summary.json", "."])
def test_a_json_path_that_cannot_be_written_is_found_before_the_run(tmp_path: Path, place: str) -> None:
    with FakeServer.in_thread() as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--json", str(tmp_path / place))
        result = sweep(tmp_path / "out", *options)
    assert result.exit_code == 4
    assert f"cannot write {tmp_path / place}" in result.stderr
    assert not (tmp_path / "out").exists()
    assert not server.chats


def test_the_check_of_a_json_path_leaves_nothing_behind(tmp_path: Path) -> None:
    result = sweep(tmp_path / "out", "--json", str(tmp_path / "copy.json"), "--concurrency", "nonsense")
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_json_path_lost_during_the_run_costs_neither_table_nor_folder(tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "summary.json"
    copy.parent.mkdir()
    with FakeServer.in_thread(lambda index: _removing(copy.parent)) as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "2", "--json", str(copy))
        result = sweep(tmp_path / "out", *options)
    assert result.exit_code == 4
    assert f"cannot write {copy}" in result.stderr
    assert result.stdout.startswith("backend")
    assert result.stdout.endswith(f"{run_folder(tmp_path / 'out') / 'summary.md'}\n")


def _removing(folder: Path) -> Script:
    if folder.exists():
        folder.rmdir()
    return Script()
