"""A sweep from a configuration file, and the same one again."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from tests.fakes import FakeServer, Script

FAST = Script(gap_s=0.002)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def manifest_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


@pytest.mark.slow
def test_options_from_a_file_give_way_to_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    with FakeServer.in_thread(FAST) as server:
        config.write_text(
            f'backend = "s={server.url}"\nconcurrency = "1,2"\nrequests = 3\nmax-tokens = 5\nseed = 4\nwarmup = 0\n'
            'slo = ["ttft=500ms"]\nignore-eos = false\n'
        )
        result = invoke("sweep", "--config", config, "--seed", "9", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    (folder,) = (tmp_path / "out").iterdir()
    settings = manifest_of(folder)["settings"]
    assert (settings["concurrencies"], settings["requests"], settings["max_tokens"]) == ([1, 2], 3, 5)
    assert (settings["seed"], settings["ignore_eos"], settings["slos"]) == (9, False, {"ttft": 0.5})
    assert len(server.chats) == 6


def test_an_unknown_option_in_a_file_is_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("concurency = 4\n")
    result = invoke("sweep", "--config", config, "--out", tmp_path)
    assert result.exit_code == 2
    assert "did you mean concurrency" in result.stderr


@pytest.mark.slow
def test_a_rerun_asks_the_same_bytes_and_says_so(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        load = ("--concurrency", "1,2", "--requests", "3", "--max-tokens", "4", "--seed", "5")
        invoke("sweep", "--backend", f"s={server.url}", *load, "--out", tmp_path)
        (first,) = tmp_path.iterdir()
        num_first = len(server.chats)
        result = invoke("rerun", first.name, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("request bodies: 9 of 9 are the same bytes\n")  # 1 + 3 and 2 + 3, warm-up included
    (second,) = [folder for folder in tmp_path.iterdir() if folder != first]
    assert manifest_of(second)["settings"] == manifest_of(first)["settings"]
    assert manifest_of(second)["command"] == manifest_of(first)["command"]
    asked = [sorted(seen.raw_body for seen in part) for part in (server.chats[:num_first], server.chats[num_first:])]
    assert asked[0] == asked[1]
    line = json.loads((second / "requests.jsonl").read_text().splitlines()[0])
    assert len(line["request_sha256"]) == len(sha256().hexdigest())


@pytest.mark.slow
def test_a_rerun_that_asks_something_else_is_exit_code_1(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        load = ("--concurrency", "1", "--requests", "3", "--max-tokens", "4", "--warmup", "0")
        invoke("sweep", "--backend", f"s={server.url}", *load, "--out", tmp_path)
        (first,) = tmp_path.iterdir()
        manifest = manifest_of(first)
        manifest["settings"]["max_tokens"] = 5
        (first / "manifest.json").write_text(json.dumps(manifest))
        result = invoke("rerun", first, "--out", tmp_path)
    assert result.exit_code == 1
    assert "request bodies: 0 of 3 are the same bytes, the first that differs is " in result.stdout
