import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ming_eval import run_folder
from ming_eval.errors import DataError
from ming_eval.run_folder import Redactor, RequestLog, find_run, outputs_file, read_records, stored_runs
from ming_eval.types import Failure, Reply
from tests.ming_eval.factories import make_record

NOON = datetime(2026, 6, 15, 12, 0, 5, tzinfo=UTC)


def test_folders_are_named_by_time_command_and_backends_and_numbered(tmp_path: Path) -> None:
    names = [run_folder.create(tmp_path / "out", "sweep", ["a", "b c/d"], NOON).name for _ in range(3)]
    stem = "20260615T120005Z-sweep-a-b_c_d"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="--out"):
        run_folder.create(tmp_path / "file", "sweep", ["a"], NOON)


def test_records_are_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    records = [make_record(index=0), make_record(index=1, failure=Failure.RESET, error="reset")]
    with RequestLog(tmp_path, Redactor()) as log:
        for record in records:
            log.add(Reply(record, "text"))
        assert read_records(tmp_path) == tuple(records)


def test_texts_go_to_one_file_per_point_warmup_left_out(tmp_path: Path) -> None:
    with RequestLog(tmp_path, Redactor()) as log:
        log.add(Reply(make_record(id="w", warmup=True), "not kept"))
        log.add(Reply(make_record(id="c1-0"), "eins", reasoning="hm"))
        log.add(Reply(make_record(id="c2-0", concurrency=2), "zwei"))
    (line,) = (tmp_path / outputs_file("a", 1)).read_text().splitlines()
    said = {"id": "c1-0", "finish_reason": "length", "text": "eins", "reasoning": "hm"}
    assert json.loads(line) == said
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["a-c1.jsonl", "a-c2.jsonl"]


def test_secrets_that_a_server_echoes_are_masked(tmp_path: Path) -> None:
    record = make_record(failure=Failure.HTTP_4XX, error="bad key sk-123456 given")
    with RequestLog(tmp_path, Redactor(("sk-123456",))) as log:
        log.add(Reply(record, "you sent sk-123456", reasoning="sk-123456?"))
    written = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert "sk-123456" not in written
    assert written.count("***") == 3


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    with RequestLog(tmp_path, Redactor()) as log:
        log.add(Reply(make_record(), "text"))
    path = tmp_path / run_folder.REQUESTS_FILE
    path.write_bytes(path.read_bytes() + path.read_bytes()[:100])
    assert read_records(tmp_path) == (make_record(),)


def test_a_broken_line_inside_the_file_is_a_data_error_with_its_number(tmp_path: Path) -> None:
    with RequestLog(tmp_path, Redactor()) as log:
        log.add(Reply(make_record(), "text"))
    path = tmp_path / run_folder.REQUESTS_FILE
    path.write_bytes(path.read_bytes() + b'{"id": 3}\n' + path.read_bytes())
    with pytest.raises(DataError, match="line 2"):
        read_records(tmp_path)


def test_a_full_disk_is_a_data_error_that_names_the_file(tmp_path: Path) -> None:
    with RequestLog(tmp_path, Redactor()) as log:
        (tmp_path / run_folder.REQUESTS_FILE).symlink_to("/dev/full")
        with pytest.raises(DataError, match="No space left on device"):
            log.add(Reply(make_record(), "text"))


def test_runs_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    for name in ("b-run", "a-run", "no-run"):
        (tmp_path / name).mkdir()
    for name in ("b-run", "a-run"):
        (tmp_path / name / "manifest.json").touch()
    assert [path.name for path in stored_runs(tmp_path)] == ["a-run", "b-run"]
    assert find_run("a-run", tmp_path) == tmp_path / "a-run"
    assert find_run(str(tmp_path / "a-run"), Path("elsewhere")) == tmp_path / "a-run"
    with pytest.raises(DataError, match="ming-eval runs"):
        find_run("no-run", tmp_path)
