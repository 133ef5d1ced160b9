"""Tensor parallelism on the CPU: the same tokens from one rank and from several."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.config import EngineConfig
from engine.errors import RANK_DIED, ConfigError
from engine.ipc import Failed, FrameSplitter, Start, decode_events, pack
from engine.parallel import TensorParallel
from engine.runtime.build import load_engine
from tests.engine.runtime.forced import NUM_STEPS, difference_of_ranks

pytestmark = pytest.mark.slow  # real processes, real files

GOLDEN = Path(__file__).parents[2] / "goldens" / "understanding" / "g_end_to_end"

SCRIPT = """
import json, sys
from engine.config import EngineConfig
from engine.runtime.start import build_engine
from tests.engine.runtime.helpers import media_request, text_request, tokens
model, size = sys.argv[1], int(sys.argv[2])
loop, info = build_engine(EngineConfig(model=model, device="cpu", tp=size, kv_tokens=4096, num_threads=1))
requests = [text_request(1, 30), text_request(2, 7), text_request(4, 9, temperature=1.0, seed=5)]
requests.append(media_request(3, [(1, 4, 4)], [30]))
print(json.dumps([info.tp, tokens(loop, requests)]))
"""


GOLDEN_SCRIPT = """
import json, sys
from pathlib import Path
from engine.config import EngineConfig
from engine.goldens.compare import load_case
from engine.goldens.end_to_end import request_of
from engine.model_config import load_model_config
from engine.runtime.start import build_engine
from tests.engine.runtime.helpers import tokens
folder, size = Path(sys.argv[1]), int(sys.argv[2])
inputs, expected = load_case(folder)
loop, info = build_engine(EngineConfig(model=str(folder), device="cpu", tp=size, kv_tokens=1024, num_threads=1))
names = sorted({name.split(".")[0] for name in inputs})
llm = load_model_config(folder).llm
requests = []
for i, name in enumerate(names):
    mine = {key.removeprefix(name + "."): x for key, x in inputs.items() if key.startswith(name + ".")}
    requests.append(request_of(llm, mine, i, len(expected[name + ".greedy.tokens"])))
print(json.dumps([info.tp, tokens(loop, requests)]))
"""


# A rank whose first step never returns, as from a kernel that waits for another rank; all around it is the real thing.
HELD_RANK = """
import os, sys, threading
from pathlib import Path
from types import SimpleNamespace
from engine.runtime import ranks
def join(config, rank, store):
    Path(store).touch()
    def launch(step):
        print(os.getpid(), store, os.environ.get("HF_TOKEN"), flush=True)
        threading.Event().wait()
    return SimpleNamespace(runner=SimpleNamespace(launch=launch))
ranks.join = join
ranks.main(int(sys.argv[1]))
"""
FIRST_RANK = """
import subprocess, sys
from engine.config import EngineConfig
from engine.core.request import Step
from engine.runtime.ranks import RankGroup
start = subprocess.Popen
subprocess.Popen = lambda command, **options: start([sys.executable, "-c", sys.argv[1], command[-1]], **options)
group = RankGroup(EngineConfig(model="none", tp=2), print)
group.send(Step(0, (), ()))
sys.stdin.read()
"""

# A rank that meets the others and then finds no room; and the engine process, real but for the rank that it starts.
REFUSING_RANK = """
import sys
from engine.errors import ConfigError
from engine.runtime import ranks
def load_engine(config, tp):
    raise ConfigError("the cache leaves no memory")
ranks.load_engine = load_engine
ranks.main(int(sys.argv[1]))
"""
ENGINE = """
import subprocess, sys
from engine.child import leave
from engine.runtime import process
start = subprocess.Popen
subprocess.Popen = lambda command, **options: start([sys.executable, "-c", sys.argv[1], command[-1]], **options)
leave(process.main(sys.argv[2:]))
"""


@cache
def run_ranks(model: Path, size: int, script: str = SCRIPT) -> str:
    command = [sys.executable, "-c", script, str(model), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1].removeprefix(f"[{size}, ")


def test_two_ranks_say_what_one_says(tiny_model: Path) -> None:
    assert run_ranks(tiny_model, 2) == run_ranks(tiny_model, 1)


@pytest.mark.parametrize("size", [4, 8])
def test_more_ranks_than_key_value_heads(tiny_model: Path, size: int) -> None:
    """Two key/value heads, copied: eight ranks have one query head and two experts' columns each."""
    assert run_ranks(tiny_model, size) == run_ranks(tiny_model, 1)


@pytest.mark.parametrize("size", [1, 2])
def test_released_media_prompts_on_ranks(size: int) -> None:
    """Images, frames and audio of the end-to-end golden, batched together: the released greedy tokens."""
    said = json.loads(run_ranks(GOLDEN, size, GOLDEN_SCRIPT).removesuffix("]"))
    expected = load_file(GOLDEN / "expected.safetensors")
    names = sorted({name.split(".")[0] for name in expected})
    assert [said[str(i)] for i in range(len(names))] == [expected[f"{n}.greedy.tokens"].tolist() for n in names]


def test_bfloat16_logits_of_several_ranks(tiny_model: Path, tmp_path: Path) -> None:
    """At forced tokens, with the ranks' choice of experts, every step is within 2e-2: prefill, and decode on static
    buffers."""
    config = {"model": str(tiny_model), "device": "cpu", "dtype": "bfloat16", "num_threads": 1}
    for found in difference_of_ranks(tmp_path, {"tp": 2}, {"tp": 4}, paths=("lean",), **config):
        assert len(found["lean"]) == NUM_STEPS
        assert 0 < max(found["lean"]) < 2e-2


@contextmanager
def held_group() -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Rank 0, and the other one's process and store; that one is in the middle of a step."""
    command = [sys.executable, "-c", FIRST_RANK, HELD_RANK]
    env = os.environ | {"HF_TOKEN": "hunter2"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as rank_0:
        assert rank_0.stdout is not None
        held, store, secret = rank_0.stdout.readline().split()
        assert secret == "None"
        try:
            assert Path(store).exists()
            yield rank_0, int(held), Path(store)
            assert rank_0.communicate(timeout=60) == ("", None)
        except subprocess.TimeoutExpired:
            os.kill(int(held), signal.SIGKILL)
            rank_0.kill()
            raise


def test_a_rank_that_is_held_goes_with_a_killed_rank_0() -> None:
    """It holds the pipe of the output, too: that ends when both are gone."""
    with held_group() as (rank_0, _, store):
        rank_0.kill()
    assert not store.parent.exists()


def test_a_killed_rank_leaves_no_file() -> None:
    with held_group() as (rank_0, held, store):
        os.kill(held, signal.SIGKILL)
        assert rank_0.wait(60) == RANK_DIED
    assert not store.parent.exists()


def test_a_rank_that_cannot_start_says_why_once(tiny_model: Path) -> None:
    """As a message to the server, and nothing but what is usual in the log."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", ENGINE, REFUSING_RANK, "--fd", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE, text=True) as engine:
        theirs.close()
        ours.sendall(pack(Start(EngineConfig(model=str(tiny_model), device="cpu", tp=2, num_threads=1))))
        said = b"".join(iter(partial(ours.recv, 1 << 16), b""))
        _, log = engine.communicate(timeout=60)
    assert decode_events(FrameSplitter(), said) == [Failed("rank 1: the cache leaves no memory")]
    assert engine.returncode == RANK_DIED
    assert "Traceback" not in log
    assert "CRITICAL" not in log


def test_shares() -> None:
    assert TensorParallel(1, 4).split(8, "heads") == range(2, 4)
    assert [TensorParallel(r, 8).split_kv_heads(4) for r in (0, 1, 2, 7)] == [
        range(1),
        range(1),
        range(1, 2),
        range(3, 4),
    ]
    with pytest.raises(ConfigError, match="heads 10 does not divide by tp 4"):
        TensorParallel(0, 4).split(10, "heads")


def test_context_that_the_cache_cannot_hold_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="--max-model-len 4096 does not fit"):
        load_engine(EngineConfig(model=str(tiny_model), device="cpu", kv_tokens=1024, max_model_len=4096))
