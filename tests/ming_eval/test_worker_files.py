"""Files of processes that share a load, and how they become those of one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ming_eval import run_folder
from ming_eval.run_folder import Redactor, RequestLog, merge_workers, read_phases, read_records, read_replies
from ming_eval.types import ClientHealth, Outage, Phase, Reply, RequestRecord
from tests.ming_eval.factories import make_record

HEALTH = ClientHealth(
    wall_s=10.0,
    cpu_s=2.0,
    loop_lag_s=0.001,
    num_loop_samples=10,
    receive_lag_s=None,
    num_receive_stamps=0,
    clock_drift_s=None,
    gc_pause_max_s=0.0,
    gc_pauses_s=0.0,
)
PHASE = Phase(
    backend="a", concurrency=2, rate_per_s=None, started_s=1.0, ended_s=11.0, complete=True, health=HEALTH, processes=2
)


def write(folder: Path, worker: int, records: list[RequestRecord], *phases: Phase) -> None:
    with RequestLog(folder, Redactor(), worker=worker) as log:
        for record in records:
            log.add(Reply(record, record.id))
        for phase in phases:
            log.add_phase(phase)


def records_of(*indices: int) -> list[RequestRecord]:
    return [make_record(id=f"c2-{i}", index=i, concurrency=2, sent_s=float(i)) for i in indices]


def test_parts_are_read_as_one_run_and_joined_in_order_of_time(tmp_path: Path) -> None:
    write(tmp_path, 0, records_of(0, 2), PHASE)
    write(tmp_path, 1, records_of(1, 3), PHASE)
    before = set(read_records(tmp_path)), read_phases(tmp_path), read_replies(tmp_path, "a", 2)
    merge_workers(tmp_path)
    assert [record.index for record in read_records(tmp_path)] == [0, 1, 2, 3]
    assert (set(read_records(tmp_path)), read_phases(tmp_path), read_replies(tmp_path, "a", 2)) == before
    assert set(before[2]) == {"c2-0", "c2-1", "c2-2", "c2-3"}
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl")}
    assert names == {"requests.jsonl", "phases.jsonl", "outputs/a-c2.jsonl"}
    merge_workers(tmp_path)  # nothing is left to join
    assert len(read_records(tmp_path)) == 4


def test_a_kill_between_joining_and_removing_counts_nothing_twice(tmp_path: Path) -> None:
    write(tmp_path, 0, records_of(0, 1))
    part = (tmp_path / "requests.0.jsonl").read_bytes()
    merge_workers(tmp_path)
    (tmp_path / "requests.0.jsonl").write_bytes(part)
    assert [record.index for record in read_records(tmp_path)] == [0, 1]


def test_a_line_that_a_kill_cut_short_is_left_out_of_a_part(tmp_path: Path) -> None:
    write(tmp_path, 0, records_of(0))
    with (tmp_path / "requests.0.jsonl").open("ab") as file:
        file.write(b'{"id": "c2-')
    assert len(read_records(tmp_path)) == 1
    run_folder.drop_cut_lines(tmp_path)
    assert (tmp_path / "requests.0.jsonl").read_bytes().endswith(b"}\n")


def test_an_answer_at_a_rate_is_not_taken_for_a_part_of_another(tmp_path: Path) -> None:
    with RequestLog(tmp_path, Redactor()) as log:
        for rate_per_s in (2.0, 2.5):
            log.add(Reply(make_record(id=f"r{rate_per_s:g}-0", rate_per_s=rate_per_s), "x"))
    assert set(read_replies(tmp_path, "a", 1, 2.0)) == {"r2-0"}
    merge_workers(tmp_path)
    assert set(read_replies(tmp_path, "a", 1, 2.5)) == {"r2.5-0"}


@pytest.mark.parametrize(
    ("second", "complete"),
    [((PHASE,), True), ((replace(PHASE, complete=False),), False), ((), False)],
)
def test_a_point_is_complete_when_it_is_in_every_process(
    tmp_path: Path, second: tuple[Phase, ...], complete: bool
) -> None:
    write(tmp_path, 0, records_of(0), PHASE)
    write(tmp_path, 1, records_of(1), *second)
    (phase,) = read_phases(tmp_path)
    assert phase.complete is complete


def test_the_worst_of_the_processes_counts(tmp_path: Path) -> None:
    busy = replace(HEALTH, cpu_s=9.0, loop_lag_s=0.02, receive_lag_s=0.004, num_receive_stamps=5, clock_drift_s=-0.002)
    later = replace(PHASE, started_s=0.5, ended_s=12.0, health=busy, outages=(Outage(4.0, 6.0),), connects_s=(0.1,))
    write(tmp_path, 0, records_of(0), replace(PHASE, outages=(Outage(3.0, 5.0), Outage(8.0, 9.0)), connects_s=(0.2,)))
    write(tmp_path, 1, records_of(1), later)
    (phase,) = read_phases(tmp_path)
    assert (phase.started_s, phase.ended_s, phase.connects_s) == (0.5, 12.0, (0.2, 0.1))
    assert phase.outages == (Outage(3.0, 6.0), Outage(8.0, 9.0))
    assert phase.health == replace(busy, num_loop_samples=20)


def test_a_broken_line_names_the_part_it_is_in(tmp_path: Path) -> None:
    write(tmp_path, 3, records_of(0))
    with (tmp_path / "requests.3.jsonl").open("ab") as file:
        file.write(msgspec.json.encode({"id": 1}) + b"\n")
    with pytest.raises(run_folder.DataError, match=r"requests\.3\.jsonl, line 2"):
        read_records(tmp_path)
