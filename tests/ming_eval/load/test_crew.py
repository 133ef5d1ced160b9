"""A load shared by processes that write to folders of their own, as those on other hosts do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from ming_eval.load.crew import Crew
from ming_eval.load.kept import Kept
from ming_eval.load.links import ClockOffset
from ming_eval.load.remote import Remote
from ming_eval.run_folder import Redactor, RequestLog, read_phases, read_records
from ming_eval.targets import Target
from tests.fakes import FakeServer, Script
from tests.ming_eval.client.helpers import run
from tests.ming_eval.factories import make_plan

OFFSET_S = 2.0


class FarLink:
    """A worker behind `Remote`, whose host's clock is said to be two seconds behind."""

    host = "far"

    def __init__(self, remote: Remote | None = None) -> None:
        self._remote = remote or Remote()
        self._folder = ""

    async def start(self) -> None:
        self.host, self._folder = await self._remote.start()

    async def clock(self) -> ClockOffset:
        return ClockOffset(-OFFSET_S, 0.0005)

    def folder(self, wanted: str) -> str:
        assert self._folder != wanted
        return self._folder

    async def prepare(self, files: Mapping[str, bytes]) -> None:
        await self._remote.prepare(dict(files))

    async def send(self, line: bytes) -> None:
        await self._remote.send(line)

    async def receive(self) -> bytes:
        return await self._remote.receive()

    async def stop(self) -> int | None:
        return await self._remote.stop()

    async def files(self) -> Mapping[str, bytes]:
        return await self._remote.files()


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def status(self, text: str) -> None:
        pass


async def share(server: FakeServer, folder: Path, kept: Kept, requests: int) -> Screen:
    plan = make_plan(concurrencies=(2,), requests=requests, max_tokens=3, warmup_waves=0, workers=2, cluster="ray")
    screen = Screen()
    with RequestLog(folder, Redactor()) as log:
        await Crew(plan, [Target.at(server.url, model="m")], log, screen, kept, 0.0, [FarLink(), FarLink()]).run()
    return screen


@pytest.mark.slow
def test_files_come_home_and_stamps_are_on_the_clock_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    kept = Kept()

    async def play() -> tuple[Screen, int]:
        async with FakeServer(Script()) as server:
            screen = await share(server, tmp_path, kept, 6)
            await share(server, tmp_path, Kept.stored(tmp_path), 6)  # nothing is left to do
            return screen, len(server.chats)

    before_s = time.perf_counter()
    screen, num_chats = run(play())
    assert num_chats == 6
    assert sorted(record.index for record in kept.records) == list(range(6))
    assert tuple(kept.records) == read_records(tmp_path)
    (phase,) = read_phases(tmp_path)
    assert (phase.complete, phase.processes) == (True, 2)
    # These clocks are in truth the same: taken for two seconds behind, their stamps are moved by as much.
    assert before_s + OFFSET_S < min(record.sent_s for record in kept.records) < before_s + OFFSET_S + 60
    assert all(phase.started_s <= record.sent_s <= phase.ended_s for record in kept.records)
    workers = json.loads((tmp_path / "workers.json").read_text())
    assert [(worker["clock_offset_ms"], worker["clock_error_ms"]) for worker in workers] == [(-2000.0, 0.5)] * 2
    assert "clocks of 2 workers are aligned within 0.5 ms" in screen.lines
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"requests.jsonl", "phases.jsonl"}
