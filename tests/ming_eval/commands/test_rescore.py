"""`ming-eval rescore`: stored replies by the rules of today."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.ming_eval.commands.accuracy_runs import (
    accuracy,
    all_right,
    invoke,
    prepare,
    read,
    run_folder,
    some_wrong,
)
from tests.ming_eval.evals.builders import MCQ_SUITE, mcq_rows, write_rows, write_suite
from tests.ming_eval.evals.scripted import Act, Say, ScriptedServer

pytestmark = pytest.mark.slow  # real processes, real files


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
