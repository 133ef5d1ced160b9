"""`ming-eval accuracy` and `rescore` from the command line to the files, against a server with a known score."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from ming_eval.commands.accuracy_turns import server_identity
from ming_eval.targets import Target
from tests import fake_engine
from tests.fakes import FakeServer
from tests.ming_eval.evals.builders import MCQ_SUITE, mcq_rows, write_rows, write_suite
from tests.ming_eval.evals.scripted import Act, Fail, Say, ScriptedServer

pytestmark = pytest.mark.slow  # real processes, real files

ROOT = Path(__file__).parents[3]
GOLD = "ABCD"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def accuracy(folder: Path, server: ScriptedServer, *words: str, name: str = "s") -> Result:
    """Run the fruit suite of `folder`; the first word may be another suite."""
    return invoke("accuracy", "--out", str(folder / "results"), "--backend", f"{name}={server.url}", *words)


def prepare(folder: Path, count: int = 20, *, shelves: int = 2, suite: str = MCQ_SUITE) -> list[str]:
    """A suite and its data; the words that name them."""
    write_suite(folder / "fruit", suite)
    data = write_rows(folder / "data.jsonl", mcq_rows(count, shelves=shelves))
    return [str(folder / "fruit"), "--data", str(data)]


def all_right(count: int = 20) -> Mapping[str, Sequence[Act]]:
    return {f"question {i}": (Say(GOLD[i % 4]),) for i in range(count)}


def some_wrong(count: int = 20) -> Mapping[str, Sequence[Act]]:
    """Every fifth reply is wrong."""
    return {f"question {i}": (Say(GOLD[(i + (i % 5 == 0)) % 4]),) for i in range(count)}


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "results").iterdir()
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def num_answers(folder: Path) -> int:
    """Lines that are in `responses.jsonl` so far."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("results/*/responses.jsonl"))


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


def test_ctrl_c_keeps_what_there_is_and_resume_sends_the_rest(tmp_path: Path) -> None:
    words = prepare(tmp_path, 60)
    slow = {f"question {i}": (Say(GOLD[i % 4], delay_s=0.05),) for i in range(60)}
    with ScriptedServer.in_thread(slow) as server:
        options = ["--backend", f"s={server.url}", "--out", str(tmp_path / "results"), "--concurrency", "2"]
        code = "from ming_eval.cli import main; main()"
        child = subprocess.Popen([sys.executable, "-c", code, "accuracy", *words, *options], cwd=ROOT)
        while server.num_chats < 20:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 130
        folder = run_folder(tmp_path)
        summary = read(folder / "summary.json")
        (suite,) = summary["suites"]
        assert (summary["partial"], summary["verdict"]["status"]) == (True, "interrupted")
        assert suite["correct"] + suite["skipped"] == suite["planned"] == 60
        assert "**Partial: " in (folder / "summary.md").read_text()

        sent = server.num_chats
        result = invoke("accuracy", "--resume", str(folder), "--out", str(tmp_path / "results"))
        assert result.exit_code == 0, result.stderr
        assert server.num_chats - sent == 60 - suite["correct"]
    (again,) = read(folder / "summary.json")["suites"]
    assert (again["correct"], again["reused"], again["skipped"]) == (60, suite["correct"], 0)
    assert run_folder(tmp_path) == folder


@pytest.mark.parametrize("concurrency", ["1", "64"])
def test_a_killed_run_goes_on_to_the_known_score(tmp_path: Path, concurrency: str) -> None:
    """70 right, 10 wrong, 10 right in a sentence, 5 errors, 5 without content of 100; killed in the middle."""
    words = prepare(tmp_path, 100)
    acts: dict[str, Sequence[Act]] = {}
    for i in range(100):
        right = GOLD[i % 4]
        texts = {0: None, 1: f"So the correct option is {right}.", 2: GOLD[(i + 1) % 4]}
        said = Say(texts.get(i % 20 // 2, right) if i % 20 < 6 else right, delay_s=0.01)
        acts[f"question {i}"] = (Fail(400),) if i % 20 == 0 else (said,)
    with ScriptedServer.in_thread(acts) as server:
        options = ["--backend", f"s={server.url}", "--out", str(tmp_path / "results"), "--concurrency", concurrency]
        code = "from ming_eval.cli import main; main()"
        child = subprocess.Popen([sys.executable, "-c", code, "accuracy", *words, *options], cwd=ROOT)
        while (done := num_answers(tmp_path)) < 20:
            assert child.poll() is None
            time.sleep(0.005)
        child.kill()
        child.wait()
        result = invoke("accuracy", "--resume", str(run_folder(tmp_path)))
    assert result.exit_code == 0, result.stderr
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    outcomes = [suite[key] for key in ("correct", "wrong", "unparsed", "error", "skipped")]
    assert outcomes == [80, 10, 5, 5, 0]
    assert suite["accuracy"] == 0.8
    assert suite["parse_rate"] == 90 / 95
    assert suite["reused"] >= done - 10  # errors and replies without content are asked again
    assert suite["rules"] == {"bare": 80, "marked": 10}


# --- resume ------------------------------------------------------------------------------------------------------


def test_another_protocol_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as server:
        accuracy(tmp_path, server, *words)
        run = str(run_folder(tmp_path))
        for change, message in ((["--protocol", "cot"], "another protocol"), (["--limit", "3"], "other items")):
            result = invoke("accuracy", "--resume", run, *change)
            assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
        assert server.num_chats == 20


def test_another_model_in_the_same_folder_reuses_nothing(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right(), models=("scripted", "other")) as server:
        accuracy(tmp_path, server, *words)
        run = str(run_folder(tmp_path))
        same = invoke("accuracy", "--resume", run)
        assert (same.exit_code, server.num_chats) == (0, 20)
        other = accuracy(tmp_path, server, "--resume", run, "--model", "other")
        assert (other.exit_code, server.num_chats) == (0, 40)
    summary = read(run_folder(tmp_path) / "summary.json")
    assert (summary["backends"][0]["model"], summary["suites"][0]["model"]) == ("other", "other")
    assert len(read_lines(run_folder(tmp_path) / "responses.jsonl")) == 40


# --- rescore -----------------------------------------------------------------------------------------------------


def test_rescore_without_a_server_changes_nothing_by_itself(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(some_wrong()) as server:
        accuracy(tmp_path, server, *words)
    folder = run_folder(tmp_path)
    before = {name: (folder / name).read_bytes() for name in ("summary.json", "items.jsonl")}
    result = invoke("rescore", str(folder))
    assert result.exit_code == 0, result.stderr
    assert "no reply is scored differently" in result.stdout
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_rescore_shows_what_a_new_extraction_changes(tmp_path: Path) -> None:
    """The suite file learns that the server writes its letters in another script."""
    words = prepare(tmp_path, 8)
    acts: dict[str, Sequence[Act]] = {f"question {i}": (Say("ক"),) for i in range(8)}
    with ScriptedServer.in_thread(acts) as server:
        accuracy(tmp_path, server, *words)
    folder = run_folder(tmp_path)
    assert read(folder / "summary.json")["suites"][0]["unparsed"] == 8
    write_suite(tmp_path / "fruit", MCQ_SUITE + '\n[score]\nanswer_map = { "ক" = "A" }\n')
    changes = tmp_path / "changes.json"
    result = invoke("rescore", str(folder), "--json", str(changes))
    assert result.exit_code == 0, result.stderr
    assert "8 replies are scored differently: unparsed -> wrong 6, unparsed -> correct 2" in result.stdout
    assert [change["id"] for change in read(changes)["changes"]] == [f"q{i}" for i in range(8)]
    assert read(folder / "summary.json")["suites"][0]["correct"] == 2


def test_a_rescored_run_goes_on_by_the_new_rules_and_another_prompt_is_refused(tmp_path: Path) -> None:
    words = prepare(tmp_path, 8)
    with ScriptedServer.in_thread({f"question {i}": (Say("ক"),) for i in range(8)}) as server:
        accuracy(tmp_path, server, *words)
        folder = run_folder(tmp_path)
        write_suite(tmp_path / "fruit", MCQ_SUITE + '\n[score]\nanswer_map = { "ক" = "A" }\n')
        refused = invoke("accuracy", "--resume", str(folder))
        assert (refused.exit_code, "`ming-eval rescore` it first" in refused.stderr) == (2, True)
        assert invoke("rescore", str(folder)).exit_code == 0
        again = invoke("accuracy", "--resume", str(folder))
        assert (again.exit_code, server.num_chats) == (0, 8), again.stderr
    write_suite(tmp_path / "fruit", MCQ_SUITE.replace("just the letter", "nothing but the letter"))
    other = invoke("rescore", str(folder))
    assert other.exit_code == 4
    assert "fruit v1 was asked otherwise than its file (v1) says now" in other.stderr


def test_rescore_sums_up_a_killed_run(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(some_wrong()) as server:
        accuracy(tmp_path, server, *words)
    folder = run_folder(tmp_path)
    for name in ("summary.json", "summary.md", "items.jsonl"):
        (folder / name).unlink()
    lines = (folder / "responses.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "responses.jsonl").write_bytes(b"".join(lines[:7]))
    result = invoke("rescore", str(folder))
    assert result.exit_code == 0, result.stderr
    summary = read(folder / "summary.json")
    assert (summary["partial"], summary["verdict"]["status"]) == (True, "killed")
    suite = summary["suites"][0]
    assert (suite["planned"], suite["correct"] + suite["wrong"], suite["skipped"]) == (20, 7, 13)


def test_rescore_refuses_other_data(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as server:
        accuracy(tmp_path, server, *words)
    write_rows(tmp_path / "data.jsonl", mcq_rows(19))
    result = invoke("rescore", str(run_folder(tmp_path)))
    assert (result.exit_code, "not what it was" in result.stderr) == (4, True)


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


@pytest.mark.parametrize(("checkpoint", "reused"), [("one", 6), ("other", 0)])
def test_a_run_on_the_bundled_engine_goes_on_where_the_weights_are_the_same(
    tmp_path: Path, checkpoint: str, reused: int
) -> None:
    fake_engine.install(tmp_path)
    words = prepare(tmp_path, 6)

    def run(digest: str, *more: str) -> None:
        environment = os.environ | {"FAKE_CHECKPOINT": digest, "PYTHONPATH": str(ROOT)}
        command = [
            sys.executable,
            "-c",
            "from ming_eval.cli import main; main()",
            "accuracy",
            "--out",
            "results",
            *more,
        ]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    run("one", *words)
    run(checkpoint, "--resume", run_folder(tmp_path).name)
    (suite,) = read(run_folder(tmp_path) / "summary.json")["suites"]
    assert (suite["planned"], suite["error"], suite["reused"]) == (6, 0, reused)


def test_a_launched_engine_is_known_by_its_checkpoint(tmp_path: Path) -> None:
    """Its port is another one each time; a server elsewhere is known by its address, whatever its card says."""
    cards = [{"id": "m", "checkpoint_digest": "abc"}, {"id": "other"}]
    with FakeServer.in_thread(models_body={"object": "list", "data": cards}) as server:
        named, other = (Target.at(server.url, model=model) for model in ("m", "other"))
        identities = [
            asyncio.run(server_identity(named, is_launched=True)).identity,
            asyncio.run(server_identity(named, is_launched=False)).identity,
            asyncio.run(server_identity(other, is_launched=True)).identity,
        ]
    assert identities == ["checkpoint:abc", named.base_url, named.base_url]


# --- two runs ----------------------------------------------------------------------------------------------------


def two_runs(folder: Path) -> tuple[Path, Path, list[str]]:
    """A run with everything right and one with every fifth reply wrong, of 40; the words that name suite and data."""
    words = prepare(folder, 40)
    with ScriptedServer.in_thread(all_right(40)) as server:
        accuracy(folder, server, *words, name="old")
    with ScriptedServer.in_thread(some_wrong(40)) as server:
        accuracy(folder, server, *words, name="new")
    old, new = sorted((folder / "results").iterdir(), key=lambda path: path.name.endswith("new"))
    return old, new, words


def test_two_stored_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    old, new, words = two_runs(tmp_path)
    result = invoke("compare", str(old), str(new), "--json", str(tmp_path / "c.json"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("new against old on fruit: accuracy 100.0 % -> 80.0 %, -20.0 points")
    assert "exact McNemar, p 0.0078): worse." in result.stdout
    (found,) = read(tmp_path / "c.json")["comparisons"]
    assert found["cells"] == {"both": 32, "only_first": 8, "only_second": 0, "neither": 0}
    assert found["mcnemar_p"] == 2 / 2**8
    assert (found["same_answers"], found["verdict"]) == (0.8, "worse")

    page = invoke("report", str(old), str(new), "--to", str(tmp_path / "page"))
    assert page.exit_code == 0, page.stderr
    assert "new against old on fruit" in (tmp_path / "page" / "report.html").read_text()

    with ScriptedServer.in_thread(all_right(40)) as server:
        accuracy(tmp_path, server, *words, "--protocol", "cot", name="other")
    other = next((tmp_path / "results").glob("*-other"))
    refused = invoke("compare", str(old), str(other))
    assert refused.exit_code == 4
    assert "were not asked fruit alike (protocol 'letter' and 'cot'" in refused.stderr
    assert invoke("compare", str(old), str(other), "--force").exit_code == 0


def test_a_comparison_is_a_gate(tmp_path: Path) -> None:
    old, new, _ = two_runs(tmp_path)
    failed = invoke("compare", str(old), str(new), "--fail-on", "accuracy<-2pt")
    assert failed.exit_code == 1
    assert "accuracy<-2pt: failed by new at fruit (1.00 -> 0.800)" in failed.stdout
    assert invoke("compare", str(new), str(old), "--fail-on", "fruit:accuracy<-2pt").exit_code == 0
    assert invoke("compare", str(old), str(new), "--fail-on", "wer>+1pt").exit_code == 4
    assert invoke("compare", str(old), str(new), "--agreement").exit_code == 2
    assert invoke("compare", str(old)).exit_code == 2


def test_backends_of_one_run_are_compared_in_its_summary(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with ScriptedServer.in_thread(all_right()) as one, ScriptedServer.in_thread(some_wrong()) as other:
        accuracy(tmp_path, one, *words, "--backend", f"t={other.url}")
    text = (run_folder(tmp_path) / "summary.md").read_text()
    assert "## Comparison\n\n**t against s on fruit: accuracy 100.0 % -> 80.0 %" in text
