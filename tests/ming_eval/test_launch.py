"""The bundled engine as a child process, with a stand-in for the engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ming_eval import launch
from ming_eval.errors import TargetError
from ming_eval.launch import BundledServer, engine_command, running
from tests import fake_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which `python -m engine` is the stand-in."""
    fake_engine.install(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_engine_is_ready_inside_the_block_and_gone_after_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MING_API_KEY", "not for the bundled engine")
    said: list[str] = []

    async def main() -> None:
        server = BundledServer(["--tp", "2"], folder / "engine.log")
        async with running(server, said.append) as target:
            assert (target.name, target.dialect.name) == ("ming", "ming")
            assert await launch.probe.is_healthy(target)

    asyncio.run(main())
    arguments = json.loads((folder / "engine-args.json").read_text())
    assert arguments[:6] == ["--tp", "2", "--host", "127.0.0.1", "--port", "0"]
    assert not is_alive(int((folder / "engine-pid").read_text()))
    assert (folder / "engine-signals").read_text().split() == [str(int(signal.SIGTERM))]
    assert "fake engine starts False" in (folder / "engine.log").read_text()
    assert said[0] == "starting the bundled engine, 0 s"


def test_an_engine_that_dies_is_explained_by_the_end_of_its_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "dies")

    async def main() -> None:
        async with running(BundledServer([], folder / "engine.log"), lambda text: None):
            pytest.fail("it cannot be ready")

    with pytest.raises(TargetError, match="exit code 1") as caught:
        asyncio.run(main())
    assert "no memory left for the weights" in str(caught.value)


def test_an_engine_that_ignores_sigterm_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    monkeypatch.setattr(launch, "_STOP_LIMIT_S", 0.2)

    async def main() -> None:
        async with running(BundledServer([], folder / "engine.log"), lambda text: None):
            pass

    asyncio.run(main())
    assert not is_alive(int((folder / "engine-pid").read_text()))


def test_a_later_error_is_explained_only_if_the_engine_is_dead(folder: Path) -> None:
    error = TargetError("cannot connect")

    async def main() -> tuple[TargetError, TargetError]:
        server = BundledServer([], folder / "engine.log")
        async with running(server, lambda text: None):
            alive = server.explain(error)
            server.kill()
            return alive, server.explain(error)

    alive, dead = asyncio.run(main())
    assert alive is error
    assert "exit code -9" in str(dead)


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"pip install 'ming-eval\[engine\]'"):
        engine_command([])


def start_serve(*options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "serve", *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)


def test_serve_passes_options_and_signals_on_and_returns_the_exit_code(folder: Path) -> None:
    process = start_serve("--port", "0", "--new-option", "x")
    wait_for(lambda: (folder / "engine-pid").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7
    assert json.loads((folder / "engine-args.json").read_text()) == ["serve", "--port", "0", "--new-option", "x"]
    assert (folder / "engine-signals").read_text().split() == [str(int(signal.SIGTERM))]


def test_a_ctrl_c_in_the_terminal_reaches_a_served_engine_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal signals its whole foreground group; a second signal would end the engine at once."""
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    process = start_serve()
    wait_for(lambda: (folder / "engine-pid").exists())
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: (folder / "engine-signals").exists())
    time.sleep(0.3)
    os.kill(int((folder / "engine-pid").read_text()), signal.SIGKILL)
    assert process.wait(10) == 128 + signal.SIGKILL
    assert (folder / "engine-signals").read_text().split() == [str(int(signal.SIGINT))]
