"""`ming-eval sweep` from the command line to the files, against servers that answer by a script."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from tests import fake_engine
from tests.fakes import FakeServer, Fault, Script, every
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files

ROOT = Path(__file__).parents[3]
FAST = Script(gap_s=0.002)


def sweep(out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["sweep", "--out", str(out), *words])


def run_folder(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def summary_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_folder(out) / "summary.json").read_text())
    return content


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder(out) / "requests.jsonl").read_text().splitlines()]


def prompt_of(body: dict[str, Any]) -> str:
    (message,) = body["messages"]
    content: str = message["content"]
    return content


# --- figures -----------------------------------------------------------------------------------------------------


def test_summary_by_hand(tmp_path: Path) -> None:
    """Two points, 8 requests of 5 tokens each; no failure."""
    with FakeServer.in_thread(FAST) as server:
        result = sweep(
            tmp_path, "--backend", f"s={server.url}", "--concurrency", "1,2", "--requests", "8", "--max-tokens", "5"
        )
    assert result.exit_code == 0, result.stderr
    summary = summary_of(tmp_path)
    assert (summary["format"], summary["requests"], summary["failed"], summary["partial"]) == (1, 16, 0, False)
    assert [point["concurrency"] for point in summary["points"]] == [1, 2]
    for point in summary["points"]:
        assert (point["backend"], point["task"], point["requests"], point["failed"]) == ("s", "T2T", 8, 0)
        assert (point["output_tokens"], point["prompt_tokens"]) == (40, 40)  # the script says 5 prompt tokens each
        assert (point["token_source"], point["tokens_per_event"]) == ("usage", 1.0)
        assert point["warmup_requests"] == point["concurrency"]
        assert point["output_tokens_per_s"] == pytest.approx(40 / point["wall_s"])
        assert point["requests_per_s"] == pytest.approx(8 / point["wall_s"])
        assert point["itl_ms"]["count"] == 8 * 4
        assert 2.0 <= point["tpot_ms"]["mean"] < point["e2e_ms"]["mean"]
        assert point["ttft_ms"]["p50"] <= point["e2e_ms"]["p50"] <= point["e2e_ms"]["p95"] <= point["e2e_ms"]["p99"]
    assert len(server.chats) == 1 + 8 + 2 + 8


def test_every_request_has_a_line_and_every_measured_one_its_text(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "2", "--requests", "4", "--max-tokens", "3")
    lines = lines_of(tmp_path)
    assert [line["warmup"] for line in lines] == [True] * 2 + [False] * 4
    assert sorted(line["id"] for line in lines[2:]) == ["c2-0", "c2-1", "c2-2", "c2-3"]
    assert {line["slot"] for line in lines} == {0, 1}
    texts = (run_folder(tmp_path) / "outputs" / "s-c2.jsonl").read_text().splitlines()
    assert [json.loads(text)["text"] for text in texts] == ["w0 w1 w2 "] * 4


def test_table_and_summary_file_are_on_standard_output_progress_is_not(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        result = sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1", "--requests", "2")
    assert result.stdout.startswith("backend  c  requests")
    assert result.stdout.endswith(f"{run_folder(tmp_path) / 'summary.md'}\n")
    assert "done, 0 failed" in result.stderr
    assert "done, 0 failed" not in result.stdout


def test_json_goes_where_it_is_asked_for(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "2")
        to_file = sweep(tmp_path / "a", *options, "--json", str(tmp_path / "copy.json"))
        to_stdout = sweep(tmp_path / "b", *options, "--json", "-")
    assert json.loads((tmp_path / "copy.json").read_text()) == summary_of(tmp_path / "a")
    assert to_file.stdout.startswith("backend")
    assert json.loads(to_stdout.stdout) == summary_of(tmp_path / "b")
    assert "backend  c  requests" in to_stdout.stderr


def test_markdown_table_says_what_the_summary_says(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1..2", "--requests", "4")
    text = (run_folder(tmp_path) / "summary.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| s ")]
    points = summary_of(tmp_path)["points"]
    assert [row[:4] for row in rows] == [["s", str(p["concurrency"]), str(p["requests"]), "0"] for p in points]
    assert f"ming-eval sweep --out {tmp_path}" in text  # the command to repeat it


def test_manifest_describes_server_and_settings(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1", "--requests", "2", "--seed", "42")
    manifest = json.loads((run_folder(tmp_path) / "manifest.json").read_text())
    (backend,) = manifest["backends"]
    assert (backend["model"], backend["version"], backend["url"]) == ("fake-model", "fake 1.0", f"{server.url}/v1")
    assert backend["model_card"]["max_model_len"] == 4096
    assert manifest["seed"] == manifest["settings"]["seed"] == 42
    assert manifest["command"][:2] == ["ming-eval", "sweep"]
    assert manifest["started"] < manifest["finished"]
    assert manifest["host"]["num_usable_cpus"] >= 1


# --- load --------------------------------------------------------------------------------------------------------


def test_server_sees_exactly_the_concurrency_asked_for(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script(gap_s=0.01)) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "6", "--requests", "24", "--max-tokens", "4")
    assert server.max_concurrent == 6
    (point,) = summary_of(tmp_path)["points"]
    assert point["achieved_concurrency"]["max"] == 6
    assert server.num_connections <= 6 + 3  # one per slot, and those of the questions before
    assert point["reconnections"] == 0


@pytest.mark.slow
def test_no_prompt_is_sent_twice_warmup_included(tmp_path: Path) -> None:
    with FakeServer.in_thread() as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1..32", "--max-tokens", "1", "--warmup", "2")
    prompts = [prompt_of(request.body) for request in server.chats]
    assert len(prompts) == 3 * 16 + 32 + 64 + 128 + 2 * 63  # max(16, 4c) each, and two waves before each
    assert len(set(prompts)) == len(prompts)


def test_request_bodies_carry_seed_length_and_greedy_sampling(tmp_path: Path) -> None:
    with FakeServer.in_thread() as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "1", "--warmup", "0")
        sweep(tmp_path / "a", *options, "--seed", "9", "--max-tokens", "3", "--dialect", "vllm")
        sweep(tmp_path / "b", *options, "--no-ignore-eos", "--dialect", "vllm")
        sweep(tmp_path / "c", *options)
    fixed, natural, plain = (request.body for request in server.chats)
    assert (fixed["seed"], fixed["temperature"], fixed["model"]) == (9, 0.0, "fake-model")
    assert fixed["max_completion_tokens"] == 3
    assert fixed["stream"] is True
    assert fixed["ignore_eos"] is True
    assert not natural.get("ignore_eos")
    assert "ignore_eos" not in plain  # the OpenAI API has no such field


def test_a_seed_gives_the_same_prompts_again_and_another_gives_others(tmp_path: Path) -> None:
    sent = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        with FakeServer.in_thread() as server:
            sweep(tmp_path / name, "--backend", f"s={server.url}", "--concurrency", "1", "--seed", seed)
            sent.append([prompt_of(request.body) for request in server.chats])
    assert sent[0] == sent[1] != sent[2]


def test_backends_take_turns_point_by_point_with_the_same_requests(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as a, FakeServer.in_thread(FAST) as b:
        options = ("--concurrency", "1,2,4", "--requests", "6", "--max-tokens", "2")
        result = sweep(tmp_path, "--backend", f"a={a.url}", "--backend", f"b={b.url}", *options)
    assert result.exit_code == 0
    turns = list(dict.fromkeys((line["backend"], line["concurrency"]) for line in lines_of(tmp_path)))
    assert turns == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 4), ("b", 4)]
    sent = [sorted(json.dumps(request.body, sort_keys=True) for request in server.chats) for server in (a, b)]
    assert sent[0] == sent[1]
    places = [(point["backend"], point["concurrency"]) for point in summary_of(tmp_path)["points"]]
    assert places == [("a", 1), ("a", 2), ("a", 4), ("b", 1), ("b", 2), ("b", 4)]
    assert run_folder(tmp_path).name.endswith("-sweep-a-b")


# --- failures ----------------------------------------------------------------------------------------------------


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
        options = ("--concurrency", "1", "--requests", "4", "--warmup", "0", "--max-tokens", "5", "--timeout", "0.2")
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


# --- secrets -----------------------------------------------------------------------------------------------------


def test_secrets_reach_the_server_and_no_file_and_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-the-api-key")
    with FakeServer.in_thread() as server:
        secrets = ("--header", "X-Tenant: the-tenant-secret", "--api-key-env", "THE_KEY")
        result = sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1", "--requests", "2", *secrets)
    assert result.exit_code == 0
    assert server.chats[0].headers["authorization"] == "Bearer sk-the-api-key"
    assert server.chats[0].headers["x-tenant"] == "the-tenant-secret"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("sk-the-api-key", "the-tenant-secret"):
        assert secret.encode() not in written
        assert secret not in result.output
    assert b"X-Tenant: ***" in written
    assert b"THE_KEY" in written


def test_a_secret_that_a_server_repeats_in_an_error_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-the-api-key")
    echo = Script(fault=Fault.HTTP_500, error="no such key: sk-the-api-key")
    with FakeServer.in_thread(echo) as server:
        options = ("--concurrency", "1", "--requests", "2", "--api-key-env", "THE_KEY")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert "no such key: ***" in result.stdout
    assert "sk-the-api-key" not in result.output
    (point,) = summary_of(tmp_path)["points"]
    assert point["failure_examples"]["http_5xx"].endswith("no such key: ***")


# --- Ctrl-C and kill ---------------------------------------------------------------------------------------------


def start(folder: Path, *words: str, terminal: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "sweep", "--out", "out", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with_hang_up = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` would pass on its deafness
    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=terminal,
        stderr=terminal,
        process_group=0,
        preexec_fn=with_hang_up,
    )


def hanging_from(index: int) -> Callable[[int], Script]:
    return lambda number: Script() if number < index else Script(fault=Fault.HANG, fault_at=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_sweep_writes_what_there_is(tmp_path: Path, number: signal.Signals) -> None:
    """Point c=1 is whole (4 of 4), of c=2 the first 3 of 4 have ended, c=4 never began."""
    with FakeServer.in_thread(hanging_from(7)) as server:
        options = ("--concurrency", "1..4", "--requests", "4", "--max-tokens", "3", "--warmup", "0")
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: server.num_running == 1 and len(server.chats) == 8)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    summary = summary_of(tmp_path / "out")
    assert (summary["partial"], summary["verdict"]["status"]) == (True, "interrupted")
    assert [(p["concurrency"], p["planned"], p["requests"]) for p in summary["points"]] == [(1, 4, 4), (2, 4, 3)]
    assert summary["failed"] == 0  # what was given up is no failure of the server
    assert "Partial" in (run_folder(tmp_path / "out") / "summary.md").read_text()
    assert "interrupted: stopped by a signal before the end; the figures above are partial" in out
    whole, cut = summary["points"]
    assert (whole["interrupted"], cut["interrupted"], summary["not_started"]) == (False, True, ["s c=4"])
    assert whole["output_tokens_per_s"] > 0
    assert (cut["requests_per_s"], cut["output_tokens_per_s"]) == (None, None)
    assert "given up" in cut["rate_reason"]
    assert re.search(r"^s +2\* +3 ", out, re.MULTILINE)
    assert "\n* interrupted: 3 of 4 requests; no rates" in out
    assert "- None of the 7 requests that ended has failed.\n- Not started: s c=4.\n" in out


def test_a_terminal_that_closes_costs_no_results(tmp_path: Path) -> None:
    """The kernel sends SIGHUP, a shell another one; from then on nothing can be printed."""
    with FakeServer.in_thread(hanging_from(3)) as server:
        options = ("--backend", f"s={server.url}", "--concurrency", "1", "--requests", "4", "--warmup", "0")
        ours, theirs = os.openpty()
        process = start(tmp_path, *options, terminal=theirs)
        os.close(theirs)
        wait_for(lambda: server.num_running == 1 and len(server.chats) == 4)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        process.wait(60)
    assert process.returncode == 130
    summary = summary_of(tmp_path / "out")
    assert (summary["verdict"]["status"], summary["requests"]) == ("interrupted", 3)


@pytest.mark.slow
def test_a_killed_sweep_can_be_summed_up_from_its_requests(tmp_path: Path) -> None:
    with FakeServer.in_thread(hanging_from(6)) as server:
        options = ("--concurrency", "1..2", "--requests", "4", "--max-tokens", "3", "--warmup", "0")
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: server.num_running == 2 and len(server.chats) == 8)
        wait_for(lambda: len(lines_of(tmp_path / "out")) == 6)  # a reply is written after the next request is sent
        process.kill()
        process.communicate(timeout=60)
    folder = run_folder(tmp_path / "out")
    assert not (folder / "summary.json").exists()
    listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path / "out")])
    assert "unfinished" in listed.stdout
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0
    summary = summary_of(tmp_path / "out")
    assert (summary["partial"], summary["verdict"]["status"], summary["finished"]) == (True, "killed", None)
    assert [(p["concurrency"], p["requests"], p["output_tokens"]) for p in summary["points"]] == [(1, 4, 12), (2, 2, 6)]
    assert "Partial" in (folder / "summary.md").read_text()


# --- the bundled engine ------------------------------------------------------------------------------------------


def test_without_a_backend_the_bundled_engine_is_started_measured_and_stopped(tmp_path: Path) -> None:
    fake_engine.install(tmp_path)
    options = ("--concurrency", "1..2", "--requests", "2", "--max-tokens", "3", "--model", "./weights")
    process = start(tmp_path, *options, "--", "--tp", "2")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    arguments = json.loads((tmp_path / "engine-args.json").read_text())
    assert arguments[:4] == ["--model", "./weights", "--tp", "2"]
    summary = summary_of(tmp_path / "out")
    (backend,) = summary["backends"]
    assert (backend["name"], backend["launched"], backend["dialect"], backend["model"]) == (
        "ming",
        True,
        "ming",
        "tiny",
    )
    assert summary["failed"] == 0
    folder = run_folder(tmp_path / "out")
    assert folder.name.endswith("-sweep-ming")
    assert "fake engine starts" in (folder / "engine.log").read_text()
    assert not _is_alive(tmp_path)


def test_an_engine_that_does_not_start_is_exit_code_3_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "dies")
    fake_engine.install(tmp_path)
    process = start(tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "no memory left for the weights" in err
    listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path / "out"), "--status", "failed"])
    assert run_folder(tmp_path / "out").name in listed.stdout
    verdict = summary_of(tmp_path / "out")["verdict"]
    assert verdict["status"] == "failed"
    assert verdict["reason"].endswith("no memory left for the weights")


def test_an_engine_that_refuses_is_exit_code_2_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "refuses")
    fake_engine.install(tmp_path)
    process = start(tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == "ming-eval: the bundled engine does not start: --model nowhere: there is no such folder\n"
    folder = run_folder(tmp_path / "out")
    assert "there is no such folder" in (folder / "summary.md").read_text()
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0


@pytest.mark.slow
def test_a_run_whose_engine_did_not_start_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "dies")
    fake_engine.install(tmp_path)
    start(tmp_path, "--concurrency", "1", "--requests", "2").communicate(timeout=30)
    monkeypatch.delenv("FAKE_ENGINE")
    process = start(tmp_path, "--resume", run_folder(tmp_path / "out").name)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    summary = summary_of(tmp_path / "out")
    assert (summary["verdict"]["status"], summary["requests"]) == ("complete", 2)
    assert [backend["model"] for backend in summary["backends"]] == ["tiny"]


def test_an_engine_that_dies_in_mid_sweep_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "falls")
    fake_engine.install(tmp_path)
    process = start(tmp_path, "--concurrency", "1", "--requests", "1000", "--max-tokens", "3")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "the bundled engine died (killed by SIGKILL)" in err
    assert "\n    CUDA error: out of luck\n" in err
    verdict = summary_of(tmp_path / "out")["verdict"]
    assert verdict["status"] == "aborted"
    assert verdict["reason"].endswith("ends with: CUDA error: out of luck")
    assert "CUDA error: out of luck" in out


def test_ctrl_c_while_the_engine_starts_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "slow")
    fake_engine.install(tmp_path)
    process = start(tmp_path)
    wait_for(lambda: (tmp_path / "engine-pid").exists())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing was measured" in err
    assert out == ""
    assert summary_of(tmp_path / "out")["verdict"]["status"] == "interrupted"
    assert not _is_alive(tmp_path)


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_and_takes_the_engine_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not react to SIGTERM; waiting for it would take longer than this test gives it."""
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    fake_engine.install(tmp_path)
    process = start(tmp_path, "--requests", "100000")
    wait_for(lambda: len(list((tmp_path / "out").glob("*/requests.jsonl"))) == 1)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: (tmp_path / "engine-signals").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=8)
    assert process.returncode == 130
    assert not _is_alive(tmp_path)


def _is_alive(folder: Path) -> bool:
    try:
        os.kill(int((folder / "engine-pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True
