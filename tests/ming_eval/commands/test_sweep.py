"""`ming-eval sweep` from the command line to the files, against servers that answer by a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeServer, Fault, Script
from tests.ming_eval.commands.sweeps import FAST, lines_of, run_folder, summary_of, sweep

pytestmark = pytest.mark.slow  # real processes, real files


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


def prompt_of(body: dict[str, Any]) -> str:
    (message,) = body["messages"]
    content: str = message["content"]
    return content


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
