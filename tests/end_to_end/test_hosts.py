"""Two torchrun agents on this machine stand for two hosts: one model over both, and one that goes down."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from engine.config import HostRank
from engine.core.request import GenerationRequest, SamplingParams
from engine.errors import RANK_DIED, ConfigError
from engine.torchrun import choose_tp, read_place
from tests.end_to_end.server import RunningServer, environment, url_when_ready
from tests.engine.runtime.helpers import make_loop, tokens

PROMPT = tuple(range(100, 140))
LIMIT_S = 300


@contextmanager
def agent(folder: Path, port: int, number: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The torchrun of host `number`; what it started ends with it."""
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number)),
        *("--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)),
        *("-m", "engine", "--device", "cpu", "--threads", "1", "--kv-tokens", "1024", "--speech", "off"),
        *("--port", "0", "--port-file", str(folder / "port"), *options),
    )
    with (folder / f"log{number}").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """One that the system gives to nobody by itself: between here and torchrun another test could get it."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@pytest.mark.slow
@pytest.mark.parametrize("down", [0, 1], ids=["the serving host goes", "the following host goes"])
def test_one_model_over_two_hosts(tiny_model: Path, tmp_path: Path, down: int) -> None:
    with ExitStack() as stack:
        port, options = free_port(), ("--model", str(tiny_model))
        agents = [stack.enter_context(agent(tmp_path, port, number, *options)) for number in (0, 1)]
        server = RunningServer(url_when_ready(agents[0], tmp_path / "port", tmp_path / "log0"), agents[0], tmp_path)
        body = {"prompt": list(PROMPT), "max_tokens": 12, "temperature": 0, "return_token_ids": True}
        status, answer = server.post("/v1/completions", body)
        assert status == 200, answer
        alone = GenerationRequest(1, PROMPT, SamplingParams(12, temperature=0.0))
        assert answer["choices"][0]["token_ids"] == tokens(make_loop(tiny_model), [alone])[1]

        agents[down].kill()
        assert agents[1 - down].wait(LIMIT_S) != 0
        log = (tmp_path / f"log{1 - down}").read_text()
        assert log.count("a rank on another host is gone; the engine cannot go on") == 1, log
        assert "agent of this host is gone: ending without it" in (tmp_path / f"log{down}").read_text()


@pytest.mark.slow
def test_hosts_with_different_options_do_not_start(tiny_model: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        port, options = free_port(), ("--model", str(tiny_model))
        agents = [
            stack.enter_context(agent(tmp_path, port, number, *options, "--block-size", str(16 << number)))
            for number in (0, 1)
        ]
        assert [process.wait(LIMIT_S) != 0 for process in agents] == [True, True]
    said = "an option of the engine differs between rank 0 and rank 1: start all hosts with the same command"
    assert said in (tmp_path / "log1").read_text()


@pytest.mark.slow
def test_a_signal_to_all_drains(tiny_model: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        port, options = free_port(), ("--model", str(tiny_model))
        agents = [stack.enter_context(agent(tmp_path, port, number, *options)) for number in (0, 1)]
        url_when_ready(agents[0], tmp_path / "port", tmp_path / "log0")
        for process in agents:
            process.terminate()
        for process in agents:
            process.wait(LIMIT_S)
    assert "draining" in (tmp_path / "log0").read_text()
    assert "rank 0 has ended: rank 1 ends with it" in (tmp_path / "log1").read_text()


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
}


def test_torchrun_says_who_a_process_is() -> None:
    place = read_place(TORCHRUN)
    assert place == HostRank(rank=5, size=8, local_rank=1, local_size=4, master="a")
    assert read_place({name: value for name, value in TORCHRUN.items() if name != "TORCHELASTIC_RUN_ID"}) is None
    assert (choose_tp(1, place), choose_tp(8, place), choose_tp(4, None)) == (8, 8, 4)
    with pytest.raises(ConfigError, match="--tp 4, but torchrun started 8 ranks"):
        choose_tp(4, place)
    with pytest.raises(ConfigError, match="RANK"):
        read_place({"TORCHELASTIC_RUN_ID": "x"})
    assert RANK_DIED not in (0, 1, 2)
