"""`ming-eval sweep --search`, `--gpus`, `--price-per-hour` and `--note` against a scripted server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from tests.fakes import FakeServer, Script


def sweep(out: Path, *words: object) -> Result:
    return CliRunner().invoke(app, ["sweep", "--out", str(out), *map(str, words)])


def only(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


LOAD = ("--requests", "8", "--max-tokens", "4", "--warmup", "0")


def slow_at_four(number: int) -> Script:
    """Eight requests a point: the third point that a search tries is the one with four at a time."""
    return Script(first_s=0.3 if number // 8 == 2 else 0.005)


@pytest.mark.slow
def test_the_highest_load_within_limits_is_found(tmp_path: Path) -> None:
    """1, 2 and 4 at a time are tried, and as 4 is too slow, 3 between them."""
    with FakeServer.in_thread(slow_at_four) as server:
        words = ("--concurrency", "1..16", *LOAD, "--search", "ttft_ms.p50<150 and e2e_ms.mean<1000")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *words)
    assert result.exit_code == 0, result.stderr
    folder = only(tmp_path)
    found = read(folder / "capacity.json")
    assert (found["load"], found["first_broken"], found["tried"]) == (3, 4, [1, 2, 3, 4])
    assert found["limits"] == ["ttft_ms.p50<150", "e2e_ms.mean<1000"]
    assert "c=3 (c=4 does not)" in result.stdout
    assert "## Capacity" in (folder / "summary.md").read_text()
    assert [point["concurrency"] for point in read(folder / "summary.json")["points"]] == [1, 2, 4, 3]
    assert read(folder / "manifest.json")["settings"]["concurrencies"] == [1, 2, 4, 3]
    prompts = [chat.body["messages"][0]["content"] for chat in server.chats]
    assert len(prompts) == len(set(prompts)) == 4 * 8


def test_figures_per_gpu_and_price(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script()) as server:
        words = ("--concurrency", "2", *LOAD, "--gpus", "4", "--price-per-hour", "36")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *words)
    assert result.exit_code == 0, result.stderr
    folder = only(tmp_path)
    (row,) = read(folder / "cost.json")
    (point,) = read(folder / "summary.json")["points"]
    assert row["output_tokens_per_s_per_gpu"] == point["output_tokens_per_s"] / 4
    assert row["price_per_million_output_tokens"] * point["output_tokens_per_s"] == pytest.approx(0.01 * 1e6)
    assert "price per 1M tok" in result.stdout
    assert "## Per GPU and per price" in (folder / "summary.md").read_text()


@pytest.mark.slow
def test_a_note_is_kept_with_the_run(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script()) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1", *LOAD, "--note", "serve x --tp 4")
    folder = only(tmp_path)
    assert read(folder / "manifest.json")["note"] == "serve x --tp 4"
    assert "- Note: serve x --tp 4" in (folder / "summary.md").read_text()


def test_a_search_of_two_servers_or_along_rates_is_exit_code_2(tmp_path: Path) -> None:
    search = ("--search", "ttft_ms.p50<150")
    two = sweep(tmp_path, "--backend", "a=http://localhost:1", "--backend", "b=http://localhost:2", *search)
    rates = sweep(tmp_path, "--backend", "a=http://localhost:1", "--rate", "1..4", *search)
    assert (two.exit_code, rates.exit_code) == (2, 2)
    assert "one --backend" in two.stderr
    assert "leave out --rate" in rates.stderr
