"""`ming-eval sweep --api completions` against the bundled engine with its embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import RunningServer, running_server
from tests.ming_eval.commands.accuracy_runs import invoke

OPTIONS = ("--api", "completions", "--arrivals", "waves", "--max-tokens", "9", "--temperature", "1")


def sweep(server: RunningServer, out: Path, *options: str) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
    """Exit code, lines of requests, and the only point."""
    result = invoke("sweep", "--backend", f"ming={server.url}", *OPTIONS, *options, "--out", str(out))
    (folder,) = out.iterdir()
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    (point,) = json.loads((folder / "summary.json").read_text())["points"]
    return result.exit_code, lines, point


@pytest.mark.slow
def test_prompts_are_as_long_as_asked_and_nothing_of_them_is_known(tmp_path: Path) -> None:
    """Ids below the vocabulary's size, which the server tells: no template, no cached token, the same bytes again."""
    out = tmp_path / "out"
    with running_server(tmp_path) as server:
        code, lines, point = sweep(server, out, "--concurrency", "4", "--requests", "8", "--input-tokens", "80")
        again = invoke("rerun", str(next(out.iterdir())), "--out", str(tmp_path / "again"))
        drawn = sweep(server, tmp_path / "drawn", "--concurrency", "2", "--requests", "6", "--input-tokens", "3..70")
        refused = sweep(
            server,
            tmp_path / "refused",
            *("--concurrency", "2", "--requests", "6", "--warmup", "0", "--input-tokens", "40"),
            *("--vocabulary", "1000000"),
        )
        text = sweep(server, tmp_path / "text", "--concurrency", "1", "--requests", "2", "--no-nonce")
    second = json.loads((next((tmp_path / "again").iterdir()) / "summary.json").read_text())["points"][0]["validity"]
    assert code == 0
    assert point["validity"]["cached_share"] == 0.0
    assert second["cached_share"] == 0.8  # the same prompts again: 64 of 80 tokens, and it says so
    assert any("warm prefix cache" in reason for reason in second["reasons"])
    assert {(line["num_prompt_tokens"], line["num_cached_tokens"], line["failure"]) for line in lines} == {
        (80, 0, None)
    }
    assert {(line["num_output_tokens"], line["token_source"]) for line in lines} == {(9, "usage")}
    assert len({line["request_sha256"] for line in lines}) == len(lines) == 12
    assert (point["requests"], point["prompt_tokens"], point["cached_tokens"]) == (8, 640, 0)
    assert (point["length_source"], point["server"]["prefix_hit_share"]) == ("ids", 0.0)
    assert again.exit_code == 0, again.stderr
    assert again.stdout.startswith("request bodies: 12 of 12 are the same bytes\n")
    assert {line["num_prompt_tokens"] for line in drawn[1]} <= set(range(3, 71))
    assert len({line["num_prompt_tokens"] for line in drawn[1]}) > 3
    assert (refused[0], refused[2]["failed"], refused[2]["failures"]) == (1, 6, {"http_4xx": 6})
    assert "outside the vocabulary" in refused[1][0]["error"]
    assert (text[0], text[2]["failed"], text[2]["length_source"]) == (0, 0, None)
