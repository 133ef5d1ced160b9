"""`ming-eval accuracy` from the command line to the files, against a server with a known score."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.ming_eval.commands.accuracy_runs import (
    ROOT,
    accuracy,
    all_right,
    invoke,
    prepare,
    read,
    read_lines,
    run_folder,
    some_wrong,
)
from tests.ming_eval.evals.builders import mcq_rows, write_rows
from tests.ming_eval.evals.scripted import Act, Fail, Say, ScriptedServer

pytestmark = pytest.mark.slow  # real processes, real files


# --- a run -------------------------------------------------------------------------------------------------------


def test_files_and_figures_by_hand(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(some_wrong()) as server:
        result = accuracy(tmp_path, server, *words)
    assert result.exit_code == 0, result.stderr
    folder = run_folder(tmp_path)
    summary = read(folder / "summary.json")
    assert (summary["format"], summary["requests"], summary["failed"], summary["partial"]) == (1, 20, 0, False)
    (suite,) = summary["suites"]
    keys = ("suite", "protocol", "planned", "correct", "wrong", "unparsed", "error", "skipped", "accuracy")
    assert [suite[key] for key in keys] == ["fruit", "letter", 20, 16, 4, 0, 0, 0, 0.8]
    assert (round(suite["ci_low"], 3), round(suite["ci_high"], 3)) == (0.584, 0.919)
    assert suite["parse_rate"] == 1.0
    items = read_lines(folder / "items.jsonl")
    assert len(items) == 20
    assert items[0] | {"latency_s": 0, "response": ""} == {
        "suite": "fruit",
        "backend": "s",
        "id": "q0",
        "repeat": 0,
        "rotation": 0,
        "outcome": "wrong",
        "reason": None,
        "rule": "bare",
        "extracted": "B",
        "gold": "A",
        "value": 0.0,
        "latency_s": 0,
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "finish_reason": "stop",
        "attempts": 1,
        "group": {"shelf": "s0"},
        "cluster": None,
        "response": "",
        "order": None,
        "tallies": {},
    }
    assert [line["text"] for line in read_lines(folder / "responses.jsonl") if line["id"] == "q1"] == ["B"]
    assert "80.0 %" in result.stdout
    assert str(folder / "summary.md") in result.stdout


def test_the_document_has_its_parts_in_order(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(some_wrong()) as server:
        accuracy(tmp_path, server, *words)
    text = (run_folder(tmp_path) / "summary.md").read_text()
    parts = [
        "# Accuracy of s (scripted)",
        "16 requests at a time",
        "| suite | backend |",
        "### What the figures estimate",
        "### By shelf",
        "### Replies",
        "Answer with just the letter ({letters}):",
        "### Caveats",
        "## How to repeat it",
        "ming-eval accuracy",
        "ming-eval rescore",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert "| s0 | 8 / 10 | 80.0 % |" in text


def test_json_on_standard_output(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as server:
        result = accuracy(tmp_path, server, *words, "--json", "-")
    assert json.loads(result.stdout)["suites"][0]["accuracy"] == 1.0


def test_length_and_further_fields_are_kept_and_a_run_goes_on_with_no_others(tmp_path: Path) -> None:
    words = (*prepare(tmp_path), "--max-tokens", "77", "--extra-body", '{"top_k": 1}')
    with ScriptedServer.in_thread(all_right()) as server:
        assert accuracy(tmp_path, server, *words).exit_code == 0
        folder = run_folder(tmp_path)
        resume = ("accuracy", "--resume", folder.name, "--out", str(folder.parent))
        refused = invoke(*resume, "--extra-body", '{"top_k": 2}')
        assert invoke(*resume).exit_code == 0
    assert read(folder / "summary.json")["suites"][0]["max_tokens"] == 77
    settings = read(folder / "manifest.json")["settings"]
    assert (settings["max_tokens"], settings["extra_body"]) == (77, '{"top_k": 1}')
    assert refused.exit_code == 2
    assert "was asked by another protocol" in refused.stderr


def test_several_suites_and_backends(tmp_path: Path) -> None:
    with ScriptedServer.in_thread({"": (Say("Answer: A"),)}) as server:
        result = accuracy(tmp_path, server, "mmlu", "mmlu-pro", "--backend", f"t={server.url}", "--limit", "6")
    assert result.exit_code == 0, result.stderr
    suites = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert [(suite["backend"], suite["suite"], suite["planned"]) for suite in suites] == [
        ("s", "mmlu-sample", 6),
        ("s", "mmlu-pro-sample", 6),
        ("t", "mmlu-sample", 6),
        ("t", "mmlu-pro-sample", 6),
    ]


def test_a_caveat_is_said_once_with_the_backend_that_it_is_about(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    wordy = {f"question {i}": (Say("Berries"),) for i in range(20)}
    with ScriptedServer.in_thread(all_right()) as server, ScriptedServer.in_thread(wordy) as other:
        result = accuracy(tmp_path, server, *words, "--backend", f"w={other.url}", "--limit", "10")
    assert result.stdout.count("fruit: A sample of 10 of 20 items (seed 0).") == 1
    assert "fruit (w): Only 0 of 10 replies are a bare letter" in result.stdout


def test_a_suite_spread_over_backends(tmp_path: Path) -> None:
    words = prepare(tmp_path, 40)
    with ScriptedServer.in_thread(all_right(40)) as one, ScriptedServer.in_thread(all_right(40)) as two:
        result = accuracy(tmp_path, one, *words, "--backend", f"t={two.url}", "--shard")
    assert result.exit_code == 0, result.stderr
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert (suite["backend"], suite["planned"], suite["correct"]) == ("s+t", 40, 40)
    assert one.num_chats + two.num_chats == 40
    assert min(one.num_chats, two.num_chats) > 5
    assert suite["answered_by"] == {"s": one.num_chats, "t": two.num_chats}


@pytest.mark.parametrize("backends", [[], ["--backend", "s=http://127.0.0.1:9"]])
def test_a_suite_is_not_spread_over_one_backend(tmp_path: Path, backends: Sequence[str]) -> None:
    result = invoke("accuracy", "mmlu", "--shard", *backends, "--out", str(tmp_path / "results"))
    assert (result.exit_code, "--shard spreads each suite over several servers" in result.stderr) == (2, True)
    assert not (tmp_path / "results").exists()


def test_two_models_are_not_one_figure(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with (
        ScriptedServer.in_thread(all_right()) as one,
        ScriptedServer.in_thread(all_right(), models=("other",)) as two,
    ):
        result = accuracy(tmp_path, one, *words, "--backend", f"t={two.url}", "--shard")
    assert result.exit_code == 2
    assert "s serves scripted, t serves other" in result.stderr
    assert one.num_chats == two.num_chats == 0


def test_a_stratified_sample(tmp_path: Path) -> None:
    words = prepare(tmp_path, 40, shelves=4)
    with ScriptedServer.in_thread(all_right(40)) as server:
        accuracy(tmp_path, server, *words, "--per-group", "2")
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert suite["planned"] == 8
    assert {row["name"]: row["total"] for row in suite["groups"]["shelf"]} == dict.fromkeys(("s0", "s1", "s2", "s3"), 2)
    assert suite["weighted"]["value"] == 1.0


def test_shuffled_options_keep_their_order_in_the_items(tmp_path: Path) -> None:
    words = prepare(tmp_path, 8)
    names = ("Apples", "Pears", "Berries", "Nuts")
    acts = {f"question {i}": (Say(names[i % 4]),) for i in range(8)}
    with ScriptedServer.in_thread(acts) as server:
        accuracy(tmp_path, server, *words, "--shuffle-options")
    items = read_lines(run_folder(tmp_path) / "items.jsonl")
    assert {item["outcome"] for item in items} == {"correct"}
    assert len({tuple(item["order"]) for item in items}) > 1
    for i, item in enumerate(items):
        assert item["gold"] == "ABCD"[item["order"].index(i % 4)]


# --- ends --------------------------------------------------------------------------------------------------------


def test_too_many_errors_end_with_1_and_a_summary(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    acts = {**all_right(), "question 3": (Fail(400),), "question 4": (Fail(400),)}
    with ScriptedServer.in_thread(acts) as server:
        result = accuracy(tmp_path, server, *words)
        allowed = accuracy(tmp_path / "again", server, *words, "--max-error-rate", "0.1")
    assert result.exit_code == 1
    summary = read(run_folder(tmp_path) / "summary.json")
    assert (summary["verdict"]["status"], summary["partial"], summary["suites"][0]["complete"]) == (
        "errors",
        False,
        False,
    )
    assert summary["suites"][0]["possible_high"] == 1.0
    assert "2 errors and 0 skipped items count as wrong: the accuracy lies between 90.0 % and 100.0 %." in result.stdout
    assert "The first http_4xx, of item q3: HTTP 400: scripted 400" in result.stdout
    assert allowed.exit_code == 0


def test_items_without_their_files_are_no_score_of_the_model(tmp_path: Path) -> None:
    words = prepare(tmp_path, 4)
    rows = [row | {"media": [{"type": "image", "path": "nowhere.png"}]} for row in mcq_rows(4, shelves=2)]
    write_rows(tmp_path / "data.jsonl", rows)
    with ScriptedServer.in_thread(all_right(4)) as server:
        result = accuracy(tmp_path, server, *words)
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if line.startswith("fruit ")).split()
    assert row[3:8] == ["4", "accuracy", "-", "-", "-"]
    assert "fruit 0 errors and 4 skipped of 4" in result.stdout
    assert "nowhere.png" in result.stdout


def test_a_dead_server_ends_the_run_early_with_1(tmp_path: Path) -> None:
    words = prepare(tmp_path, 200)
    with ScriptedServer.in_thread({"": (Fail(400),)}) as server:
        result = accuracy(tmp_path, server, *words, "--concurrency", "1")
    assert result.exit_code == 1
    summary = read(run_folder(tmp_path) / "summary.json")
    assert summary["partial"]
    assert "more than half of the last 50 replies" in summary["verdict"]["reason"]


def test_nobody_listens(tmp_path: Path) -> None:
    result = invoke("accuracy", "mmlu", "--backend", "s=http://127.0.0.1:9", "--model", "m", "--out", str(tmp_path))
    assert result.exit_code == 3
    assert "cannot connect" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["no-such-suite"], 2, "no suite 'no-such-suite'"),
        ([], 2, "name one or more suites"),
        (["mmlu", "gsm8k", "mmlu"], 2, "suite mmlu is named twice"),
        (["mmlu", str(ROOT / "suites" / "mmlu")], 2, "suite mmlu is named twice"),
        (["mmlu", "--protocol", "poem"], 2, "no protocol 'poem'"),
        (["mmlu", "--method", "magic"], 2, "no --method 'magic': choose one of generate, loglikelihood"),
        (["mmlu", "--shuffle-options", "--rotate-options"], 2, "cannot go together"),
        (["mmlu", "--per-group", "1", "--limit", "1"], 2, "cannot go together"),
        (["mmlu", "gsm8k", "--data", "x.jsonl"], 2, "--data is for one suite"),
        (["mmlu", "--data", "x.jsonl"], 4, "no data at 'x.jsonl'"),
        (["gsm8k", "--method", "loglikelihood"], 2, "has none"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_asked(
    tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    result = invoke("accuracy", *words, "--backend", "s=http://127.0.0.1:9", "--out", str(tmp_path))
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_in_no_file(tmp_path: Path) -> None:
    words = prepare(tmp_path, 4)
    acts: dict[str, Sequence[Act]] = {f"question {i}": (Say("your key is Xsecret9"),) for i in range(4)}
    with ScriptedServer.in_thread(acts) as server:
        os.environ["SOME_KEY"] = "Xsecret9"
        accuracy(tmp_path, server, *words, "--api-key-env", "SOME_KEY")
        del os.environ["SOME_KEY"]
    for path in run_folder(tmp_path).rglob("*"):
        assert b"Xsecret9" not in path.read_bytes(), path


# --- lists -------------------------------------------------------------------------------------------------------


def test_the_list_of_suites() -> None:
    result = invoke("accuracy", "--list")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("mmlu "))
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == [
        "mmlu",
        "mcq",
        "text",
        "mcq-letter",
        "MIT",
        "c30699e835",
        "114",
        "14042",
    ]
    unpinned = {line.split()[0] for line in result.stdout.splitlines() if "not pinned" in line}
    assert unpinned == {"daily-omni", "omnibench", "worldsense", "seed-tts"}
    rows = json.loads(invoke("accuracy", "--list", "--json", "-").stdout)
    assert {"mmlu", "mmlu-pro", "gsm8k", "ifeval"} <= {row["name"] for row in rows}


def test_an_accuracy_run_is_listed_with_the_others(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as server:
        accuracy(tmp_path, server, *words)
    result = invoke("runs", "--out", str(tmp_path / "results"))
    assert "-accuracy-s" in result.stdout
    assert "complete" in result.stdout


def test_report_shows_an_accuracy_run(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(some_wrong()) as server:
        accuracy(tmp_path, server, *words)
    folder = run_folder(tmp_path)
    result = invoke("report", str(folder), "--csv", str(tmp_path / "suites.csv"))
    assert result.exit_code == 0, result.stderr
    assert "80.0 %" in result.stdout
    page = (folder / "report.html").read_text()
    assert "fruit (s)" in page
    assert "8 / 10" in page
    (row,) = csv.DictReader((tmp_path / "suites.csv").open(newline=""))
    assert (row["suite"], row["accuracy"]) == ("fruit", "0.8")
