"""The bundled engine as a child process, with a stand-in for the engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ming_eval import launch
from ming_eval.errors import TargetError, UsageError
from ming_eval.launch import BundledServer, engine_command, running
from tests import fake_engine
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which `python -m engine` is the stand-in."""
    fake_engine.install(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_engine_that_ignores_sigterm_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    monkeypatch.setattr(launch, "_STOP_LIMIT_S", 0.2)

    async def main() -> None:
        async with running(BundledServer([], folder / "engine.log"), lambda text: None):
            pass

    asyncio.run(main())
    assert not is_alive(int((folder / "engine-pid").read_text()))


async def refused() -> None:
    raise TargetError("cannot connect")


@pytest.mark.slow
def test_an_error_is_the_engines_death_only_if_the_engine_is_dead(folder: Path) -> None:
    async def main() -> None:
        server = BundledServer([], folder / "engine.log")
        async with running(server, lambda text: None):
            with pytest.raises(TargetError, match="cannot connect"):
                await server.while_alive(refused())
            server.kill()
            with pytest.raises(TargetError, match=r"died \(killed by SIGKILL\); its log, .*engine.log, ends with:"):
                await server.while_alive(refused())

    asyncio.run(main())


@pytest.mark.slow
def test_work_ends_when_the_engine_dies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_WATCH_S", 0.02)
    ended: list[str] = []

    async def work(server: BundledServer) -> None:
        try:
            server.kill()
            await asyncio.sleep(60)
        finally:
            ended.append("given up")

    async def main() -> None:
        server = BundledServer([], folder / "engine.log")
        async with running(server, lambda text: None):
            with pytest.raises(TargetError, match="the bundled engine died"):
                await server.while_alive(work(server))

    asyncio.run(main())
    assert ended == ["given up"]


def test_a_death_in_silence_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run appends to the log of the one before; its last words are not those of this engine."""
    monkeypatch.setenv("FAKE_ENGINE", "silent")
    (folder / "engine.log").write_text("what an earlier engine said\n")

    async def main() -> None:
        await BundledServer([], folder / "engine.log").start(lambda text: None)

    with pytest.raises(TargetError) as caught:
        asyncio.run(main())
    assert str(caught.value).endswith(f"died (exit code 1); it logged nothing to {folder / 'engine.log'}")


def test_what_the_engine_refuses_is_a_usage_error_with_its_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "refuses")

    async def main() -> None:
        async with running(BundledServer([], folder / "engine.log"), lambda text: None):
            pytest.fail("it cannot be ready")

    with pytest.raises(UsageError, match=r"does not start: --model nowhere: there is no such folder$"):
        asyncio.run(main())


def test_an_unknown_option_is_refused_in_the_words_of_the_engines_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engine.py").write_text("import argparse; argparse.ArgumentParser('engine').parse_args(['--what'])")
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        await BundledServer(["--what"], tmp_path / "engine.log").start(lambda text: None)

    with pytest.raises(UsageError, match="does not start: unrecognized arguments: --what"):
        asyncio.run(main())


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"'ming-eval\[engine\]'.*'\.\[engine\]'"):
        engine_command([])


@pytest.mark.slow
def test_the_engine_ends_with_a_process_that_is_killed(folder: Path) -> None:
    """Neither a signal nor a handler runs in the one that is killed: only the kernel closes the pipe."""
    process = start_serve()
    wait_for(lambda: (folder / "engine-pid").exists())
    process.kill()
    process.wait(120)
    wait_for(lambda: (folder / "engine-orphaned").exists())
    assert not (folder / "engine-signals").exists()


def start_serve(*options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "serve", *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)


@pytest.mark.slow
def test_serve_passes_options_and_signals_on_and_returns_the_exit_code(folder: Path) -> None:
    process = start_serve("--port", "0", "--new-option", "x")
    wait_for(lambda: (folder / "engine-pid").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 7
    verb, parent, _, *passed_on = json.loads((folder / "engine-args.json").read_text())
    assert (verb, parent, passed_on) == ("serve", "--parent-fd", ["--port", "0", "--new-option", "x"])
    assert (folder / "engine-signals").read_text().split() == [str(int(signal.SIGTERM))]


@pytest.mark.slow
def test_a_ctrl_c_in_the_terminal_reaches_a_served_engine_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal signals its whole foreground group; a second signal would end the engine at once."""
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    process = start_serve()
    wait_for(lambda: (folder / "engine-pid").exists())
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: (folder / "engine-signals").exists())
    time.sleep(0.3)
    os.kill(int((folder / "engine-pid").read_text()), signal.SIGKILL)
    assert process.wait(120) == 128 + signal.SIGKILL
    assert (folder / "engine-signals").read_text().split() == [str(int(signal.SIGINT))]
