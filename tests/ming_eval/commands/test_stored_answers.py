"""What the replies of a stored run are still answers to, and which options it goes on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ming_eval.commands.rescore import rescore_run
from ming_eval.errors import DataError, UsageError
from tests.ming_eval.commands.accuracy_runs import accuracy, invoke, run_folder
from tests.ming_eval.evals.builders import mcq_rows, write_rows, write_suite
from tests.ming_eval.evals.scripted import Say, ScriptedServer
from tests.ming_eval.evals.test_plan import FEW_SHOT

_SYSTEM = 'max_tokens = 8\nsystem = "Always answer D."\nexamples'


def asked(folder: Path) -> tuple[Path, Path]:
    """A run of four questions behind two solved examples each; its folder, and the file of examples."""
    write_suite(folder / "fruit", FEW_SHOT)
    data = write_rows(folder / "data.jsonl", mcq_rows(4))
    solved = [row | {"id": f"e{i}", "question": f"example {i}"} for i, row in enumerate(mcq_rows(2))]
    examples = write_rows(folder / "dev.jsonl", solved)
    words = ["--data", str(data), "--examples", str(examples), "--protocol", "shots"]
    with ScriptedServer.in_thread({f"question {i}": (Say("A"),) for i in range(4)}) as server:
        assert accuracy(folder, server, str(folder / "fruit"), *words).exit_code == 0
    return run_folder(folder), examples


def test_replies_are_filed_under_nothing_that_was_not_asked(tmp_path: Path) -> None:
    """A changed system turn and changed examples of the same ids, of a run that ended and of one that was killed."""
    run, examples = asked(tmp_path)
    before = {path: path.read_bytes() for path in run.iterdir()}
    kept = examples.read_text()

    def refuse(name: str) -> None:
        with pytest.raises(DataError, match=rf"{name} was asked otherwise than its file \(v1\) says now"):
            rescore_run(run)
        assert {path: path.read_bytes() for path in run.iterdir()} == {p: before[p] for p in run.iterdir()}

    for name in ("fruit v1", "fruit"):
        write_suite(tmp_path / "fruit", FEW_SHOT.replace("max_tokens = 8\nexamples", _SYSTEM))
        refuse(name)
        write_suite(tmp_path / "fruit", FEW_SHOT)
        examples.write_text(kept.replace("example 1", "another example"))
        refuse(name)
        resumed = invoke("accuracy", "--resume", str(run))
        assert (resumed.exit_code, "with other solved examples" in resumed.stderr) == (UsageError.exit_code, True)
        examples.write_text(kept)
        (run / "summary.json").unlink(missing_ok=True)
    assert rescore_run(run).summary.suites[0].correct == 1


def test_a_run_that_kept_no_digest_is_compared_by_what_its_summary_says(tmp_path: Path) -> None:
    run, _ = asked(tmp_path)
    path = run / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["settings"]["asked_hashes"]
    path.write_text(json.dumps(manifest))
    assert rescore_run(run).changes == ()
    for change in (_SYSTEM, "max_tokens = 9\nexamples"):
        write_suite(tmp_path / "fruit", FEW_SHOT.replace("max_tokens = 8\nexamples", change))
        with pytest.raises(DataError, match="fruit v1 was asked otherwise"):
            rescore_run(run)


def test_a_summary_that_cannot_be_written_leaves_the_manifest_as_it_was(tmp_path: Path) -> None:
    """The manifest says by which rules a summary was made: it must not run ahead of it."""
    run, _ = asked(tmp_path)
    write_suite(tmp_path / "fruit", FEW_SHOT + '\n[score]\nanswer_map = { x = "A" }\n')
    path = run / "manifest.json"
    before = path.read_bytes()
    (run / "summary.md").unlink()
    (run / "summary.md").mkdir()
    with pytest.raises(DataError):
        rescore_run(run)
    assert path.read_bytes() == before
    (run / "summary.md").rmdir()
    rescore_run(run)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "other", "--dialect", "vllm"], "--model and --dialect"),
        (["--", "--tp", "2"], "what stands after --"),
    ],
)
def test_options_of_servers_that_nobody_names_are_no_part_of_a_resumed_run(
    tmp_path: Path, words: list[str], named: str
) -> None:
    """Also of a run whose engine was started for it: the words of the line that began it hold."""
    run, _ = asked(tmp_path)
    path = run / "manifest.json"
    for launched in (False, True):
        manifest = json.loads(path.read_bytes())
        manifest["backends"][0]["launched"] = launched
        path.write_text(json.dumps(manifest))
        before = {each: each.read_bytes() for each in run.iterdir()}
        result = invoke("accuracy", "--resume", str(run), *words)
        assert (result.exit_code, f"leave out {named}, or name servers" in result.stderr) == (2, True), result.stderr
        assert {each: each.read_bytes() for each in run.iterdir()} == before
