"""Whole processes: a server and its engine, with signals, kills and ports."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.engine.server.endpoint import decode_events
from tests.engine.server.fake_process import NUM_GOOD_STEPS, STEP_S
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files

ROOT = Path(__file__).parents[3]
WAIT_S = 120.0  # against hanging


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    shown = subprocess.run(("ps", "-o", "stat=", "-p", str(pid)), capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


class Server:
    """A server process, spoken to over HTTP."""

    def __init__(self, mode: str, folder: Path, *options: str, close_fds: bool = True) -> None:
        self.port_file = folder / "port"
        self._log = folder / "log"
        command = (sys.executable, "-m", "tests.engine.server.fake_server", mode, "--port", "0")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                (*command, "--port-file", str(self.port_file), *options),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                close_fds=close_fds,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def engine_pid(self) -> int:
        return int(wait_for(lambda: re.search(r"engine process (\d+) started", self.log))[1])

    def connect(self) -> HTTPConnection:
        wait_for(self.port_file.exists)
        return HTTPConnection("127.0.0.1", int(self.port_file.read_text()), timeout=WAIT_S)

    def get(self, path: str) -> tuple[int, str]:
        connection = self.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()

    def until_ready(self) -> None:
        wait_for(lambda: self.get("/health")[0] == 200)

    def stream(self, max_tokens: int) -> HTTPResponse:
        """A stream of which the headers have come, and so the first token."""
        connection = self.connect()
        body = {"prompt": [1, 2, 3], "max_tokens": max_tokens, "stream": True, "return_token_ids": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        return response

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        return self.process.wait(WAIT_S)


@contextmanager
def running(mode: str, folder: Path, *options: str, close_fds: bool = True) -> Iterator[Server]:
    server = Server(mode, folder, *options, close_fds=close_fds)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def events_of(response: HTTPResponse) -> list[Any]:
    return decode_events(response.read().decode())


def test_from_start_to_sigterm(tmp_path: Path) -> None:
    with running("ok", tmp_path) as server:
        server.until_ready()
        *events, done = events_of(server.stream(20))
        assert sum(len(event["choices"][0]["token_ids"]) for event in events) == 20
        assert (events[-1]["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
        engine = server.engine_pid
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert not is_alive(engine)
        assert not server.port_file.exists()


def test_health_answers_while_the_engine_starts(tmp_path: Path) -> None:
    with running("slow-start", tmp_path) as server:
        assert server.get("/health") == (503, '{"status":"starting"}')
        assert server.engine_pid
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        wait_for(lambda: not is_alive(server.engine_pid))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_engine_inherits_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MING_API_KEY", "HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    with running("ok", tmp_path) as server:
        server.until_ready()
        inherited = Path(f"/proc/{server.engine_pid}/environ").read_bytes()
    assert b"hunter2" not in inherited
    assert b"NCCL_DEBUG=WARN" in inherited


def test_stream_that_runs_at_sigterm_completes(tmp_path: Path) -> None:
    with running("ok", tmp_path) as server:
        server.until_ready()
        response = server.stream(200)
        server.signal(signal.SIGTERM)
        wait_for(lambda: server.get("/health") == (503, '{"status":"draining"}'))
        *events, done = events_of(response)
        assert (events[-1]["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
        assert server.exit_code() == 0


def test_stream_that_takes_too_long_at_sigterm_gets_one_error(tmp_path: Path) -> None:
    with running("ok", tmp_path, "--drain-timeout", "0.1") as server:
        server.until_ready()
        response = server.stream(400)
        server.signal(signal.SIGTERM)
        *_, error, done = events_of(response)
        assert (error["error"]["code"], done) == ("draining", "[DONE]")
        assert server.exit_code() == 0


def test_second_sigterm_does_not_wait(tmp_path: Path) -> None:
    with running("hangs", tmp_path) as server:
        server.until_ready()
        server.stream(400)
        engine = server.engine_pid
        server.signal(signal.SIGTERM)
        wait_for(lambda: "draining" in server.log)
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 128 + signal.SIGTERM
        wait_for(lambda: not is_alive(engine))


def test_kill_of_the_engine_is_one_error_for_each_request(tmp_path: Path) -> None:
    with running("ok", tmp_path) as server:
        server.until_ready()
        responses = [server.stream(400) for _ in range(3)]
        os.kill(server.engine_pid, signal.SIGKILL)
        for response in responses:
            *events, error, done = events_of(response)
            assert (error["error"]["code"], done) == ("engine_failed", "[DONE]")
            assert not any("error" in event for event in events)
        assert server.exit_code() == 1


def test_death_of_a_rank_is_logged_and_ends_the_server(tmp_path: Path) -> None:
    with running("dies", tmp_path) as server:
        server.until_ready()
        *_, error, _ = events_of(server.stream(400))
        assert error["error"]["code"] == "engine_failed"
        assert "rank" not in error["error"]["message"]
        assert server.exit_code() == 1
        assert "rank 1 is gone" in server.log


def test_kill_of_the_server_ends_the_engine(tmp_path: Path) -> None:
    """Even one whose device hangs."""
    with running("hangs", tmp_path) as server:
        server.until_ready()
        response = server.stream(400)
        for _ in range(NUM_GOOD_STEPS):
            response.readline(), response.readline()
        time.sleep(5 * STEP_S)  # now it hangs
        engine = server.engine_pid
        server.signal(signal.SIGKILL)
        server.exit_code()
        wait_for(lambda: not is_alive(engine))


@pytest.mark.parametrize(
    ("mode", "message"), [("refused", "/no/model: head_dim 7 does not divide"), ("crashed", "the engine process ended")]
)
def test_engine_that_does_not_start(tmp_path: Path, mode: str, message: str) -> None:
    with running(mode, tmp_path) as server:
        assert server.exit_code() == 1
        assert message in server.log


def test_client_that_leaves_frees_the_engine(tmp_path: Path) -> None:
    with running("ok", tmp_path) as server:
        server.until_ready()
        response = server.stream(400)
        assert 'ming:num_requests_running{model_name="ming-flash-omni-2.0-tiny"} 1\n' in server.get("/metrics")[1]
        response.close()
        wait_for(lambda: 'num_requests_running{model_name="ming-flash-omni-2.0-tiny"} 0\n' in server.get("/metrics")[1])
        usage = re.search(r"ming:kv_cache_usage_perc\{.*\} (\S+)", server.get("/metrics")[1])
        assert usage is not None
        assert float(usage[1]) == 0


def run_engine(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "engine", *arguments),
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_engine("--port", str(port))
    assert done.returncode == 2
    assert done.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port\n"


def test_open_to_the_network_needs_a_key_or_consent(tmp_path: Path) -> None:
    done = run_engine("--host", "0.0.0.0", "--port", "0", MING_API_KEY="")
    assert done.returncode == 2
    assert "--allow-no-key" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_key_file_that_is_not_there(tmp_path: Path) -> None:
    done = run_engine("--port", "0", "--api-key-file", str(tmp_path / "absent"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --api-key-file")


def test_port_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = run_engine("--port", "0", "--port-file", str(tmp_path / "absent" / "port"))
    assert done.returncode == 2
    assert "--port-file" in done.stderr.splitlines()[-1]
    assert "cannot be written" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("speech", ["auto", "only"])
@pytest.mark.parametrize("is_there", [False, True])
def test_directory_that_is_no_model(tmp_path: Path, is_there: bool, speech: str) -> None:
    """One line, and not a word of a port at which nobody will be served."""
    folder = tmp_path / "folder"
    if is_there:
        folder.mkdir()
    done = run_engine("--port", "0", "--model", str(folder), "--speech", speech)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: .*{re.escape(str(folder))}.*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "70000"),
        ("--port", "x"),
        ("--max-num-seqs", "0"),
        ("--drain-timeout", "-1"),
        ("--memory-fraction", "2"),
    ],
)
def test_options_out_of_range(arguments: tuple[str, str]) -> None:
    done = run_engine(*arguments)
    assert done.returncode == 2
    assert f"argument {arguments[0]}: must be" in done.stderr


def test_help_is_complete_and_imports_no_framework() -> None:
    code = "import sys\nfrom engine.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'aiohttp', 'transformers'} & set(sys.modules)))"
    done = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    mine, theirs = os.pipe()  # the other end stays close-on-exec
    os.set_inheritable(mine, True)
    with running("ok", tmp_path, "--parent-fd", str(mine), close_fds=False) as server:
        os.close(mine)
        server.until_ready()
        pid = server.engine_pid
        os.close(theirs)
        assert server.exit_code() == 0
        wait_for(lambda: not is_alive(pid))
