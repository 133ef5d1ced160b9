"""Clients that leave at every stage, signals under load, and processes that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import RunningServer, running_server
from tests.engine.inputs.media_files import image_file
from tests.pressure.malformed_media import data_url
from tests.pressure.watched import footprint, gauges, pids_of, until_idle
from tests.pressure.wire import Answer, Connection, post_json

pytestmark = pytest.mark.slow  # real processes, real files

ENGINE, SPEECH, RANK, DECODER = (
    "engine.runtime.process",
    "engine.stages.process",
    "engine.runtime.ranks",
    "engine.inputs.decode_worker",
)
LIMIT_S = 120.0  # against hanging; what takes how long is measured elsewhere, on a machine that does nothing else
LONG = {"prompt": [[7] * 20], "max_tokens": 3000, "ignore_eos": True, "return_token_ids": True}
_SENTENCE = "The quick brown fox jumps over the lazy dog while seven red boats pass the old stone bridge. "
SPEECH_BODY = {"input": _SENTENCE * 40, "stream_format": "audio", "response_format": "pcm"}
NUM_STREAMS, NUM_WHOLE = 6, 4
WAITS_S = (0.3, 0.6, 1.2, 2.4, 4.8)  # in which a medium reaches a decoder, which cannot be seen from outside
LEAVES_S = 5.0  # in which a job that nobody waits for is given up; its own limit, which is 20 s, must stay out of reach


def image() -> dict[str, Any]:
    """A picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": data_url("image/png", image_file())}}


def images(count: int) -> dict[str, Any]:
    """A request for one token about pictures."""
    return {"messages": [{"role": "user", "content": [image()] * count}], "max_tokens": 1}


def port_of(server: RunningServer) -> int:
    return int(server.url.rpartition(":")[2])


async def begin(port: int, path: str, body: dict[str, Any]) -> Connection:
    """A request that was sent."""
    connection = await Connection.open(port)
    await connection.send(post_json(path, body))
    return connection


async def until_gauges(condition: Callable[[dict[str, float]], bool], port: int, limit_s: float = LIMIT_S) -> None:
    """Wait until the server's gauges are so."""
    async with asyncio.timeout(limit_s):
        while not condition(await gauges(port)):
            await asyncio.sleep(0.02)


# --- clients that leave


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that runs two sequences at once, in small steps; both decoders are there."""
    with running_server(tmp_path_factory.mktemp("small"), "--max-num-seqs", "2", "--step-tokens", "64") as server:
        assert is_served(server)
        assert len(pids_of(server.process.pid, DECODER)) == 2
        yield server


def is_served(server: RunningServer) -> bool:
    """Two pictures, one for each decoder, which take turns: both are there afterwards."""
    return server.chat([image(), image()], max_tokens=1)[0] == 200


@contextmanager
def held_still(pids: list[int]) -> Iterator[None]:
    """Processes that get nowhere, so that what they are at would take for ever; they go on afterwards."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """Come back when its parent can know: one that is still dying would be given more work."""
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([handle], [], [], LIMIT_S)[0]
    finally:
        os.close(handle)


async def while_sending(port: int, pid: int) -> None:
    connection = await Connection.open(port)
    await connection.send(post_json("/v1/completions", LONG)[:-10])
    await asyncio.sleep(0.2)
    connection.abort()


async def while_queued(port: int, pid: int) -> None:
    running = [await begin(port, "/v1/completions", LONG) for _ in range(2)]
    await until_gauges(lambda now: now["num_requests_running"] == 2, port)
    waiting = await begin(port, "/v1/completions", LONG)
    await until_gauges(lambda now: now["num_requests_waiting"] == 1, port)
    waiting.abort()
    await until_gauges(lambda now: now["num_requests_waiting"] == 0, port)
    for connection in running:
        connection.abort()


async def while_prefilling(port: int, pid: int) -> None:
    connection = await begin(port, "/v1/completions", LONG | {"prompt": [[9] * 20_000]})
    await until_gauges(lambda now: now["num_requests_running"] == 1, port)
    connection.abort()


async def while_decoding(port: int, pid: int) -> None:
    before = (await gauges(port))["generation_tokens_total"]
    connection = await begin(port, "/v1/completions", LONG)
    await until_gauges(lambda now: now["generation_tokens_total"] > before, port)
    connection.abort()


async def while_streaming(port: int, pid: int) -> None:
    connection = await begin(port, "/v1/completions", LONG | {"stream": True})
    await connection.some()
    connection.abort()


async def while_speaking(port: int, pid: int) -> None:
    connection = await begin(port, "/v1/audio/speech", SPEECH_BODY)
    await connection.some()
    connection.abort()


async def while_chat_is_spoken(port: int, pid: int) -> None:
    messages = [{"role": "user", "content": "Tell me a story."}]
    body = {
        "messages": messages,
        "max_tokens": LONG["max_tokens"],
        "ignore_eos": True,
        "modalities": ["text", "audio"],
        "stream": True,
    }
    connection = await begin(port, "/v1/chat/completions", body | {"audio": {"format": "pcm16"}})
    await connection.some()
    connection.abort()


async def while_media_is_decoded(port: int, pid: int) -> None:
    """The decoders that are at it are killed."""
    decoders = pids_of(pid, DECODER)
    for wait_s in WAITS_S:
        with held_still(decoders):
            connection = await begin(port, "/v1/chat/completions", images(2))
            await asyncio.sleep(wait_s)
            connection.abort()
            end_s = time.monotonic() + LEAVES_S
            while time.monotonic() < end_s:
                if not set(decoders) <= set(pids_of(pid, DECODER)):
                    return
                await asyncio.sleep(0.02)
    pytest.fail("decoders went on for a client that had left")


# Each with a counter, and what it cannot grow by unless somebody goes on after the client has left.
LEFT: dict[Callable[[int, int], Coroutine[Any, Any, None]], tuple[str, int]] = {
    while_sending: ("generation_tokens_total", 1),
    while_queued: ("generation_tokens_total", LONG["max_tokens"]),
    while_prefilling: ("generation_tokens_total", LONG["max_tokens"]),
    while_decoding: ("generation_tokens_total", LONG["max_tokens"]),
    while_streaming: ("generation_tokens_total", LONG["max_tokens"]),
    while_speaking: ("speech_steps_total", 300),  # it takes more than 600 to speak the whole text
    while_chat_is_spoken: ("generation_tokens_total", LONG["max_tokens"]),
    while_media_is_decoded: ("generation_tokens_total", 1),
}


@pytest.mark.parametrize("leave", LEFT, ids=lambda stage: stage.__name__)
def test_client_that_leaves_holds_nothing(small: RunningServer, leave: Callable[..., Any]) -> None:
    """Neither the engine or the talker, which would otherwise write and speak to the end, nor descriptors."""
    port, pid = port_of(small), small.process.pid
    counter, too_many = LEFT[leave]
    assert is_served(small)

    async def run() -> None:
        before = (await until_idle(port))[counter]
        num_fds = await steady_num_fds(pid)
        await leave(port, pid)
        after = (await until_idle(port, limit_s=LIMIT_S))[counter]
        assert after - before < too_many
        assert await asyncio.to_thread(is_served, small)  # as many decoders as before
        async with asyncio.timeout(LIMIT_S):
            while await steady_num_fds(pid) > num_fds:
                await asyncio.sleep(0.05)

    asyncio.run(run())


async def steady_num_fds(pid: int) -> int:
    """Descriptors without those of a connection that was closed a moment ago."""
    counts = []
    for _ in range(5):
        counts.append(footprint(pid).num_fds)
        await asyncio.sleep(0.05)
    return min(counts)


def test_killed_decoders_cost_no_request(small: RunningServer) -> None:
    """Before they have the picture, and while they have it: nobody can say that it was the picture's fault."""

    async def killed(after_s: float) -> Answer | None:
        decoders = pids_of(small.process.pid, DECODER)
        with held_still(decoders):
            connection = await begin(port_of(small), "/v1/chat/completions", images(1))
            await asyncio.sleep(after_s)
            for pid in decoders:
                kill(pid)
        return await connection.answer()

    for wait_s in WAITS_S[:4]:
        assert is_served(small)
        answer = asyncio.run(killed(wait_s))
        assert answer is not None
        assert (answer.status, answer.json().get("error")) == (200, None)
    assert "tried once more" in small.log.read_text()


# --- signals and kills under load


async def under_load(port: int, body: dict[str, Any]) -> list[Connection]:
    """Requests of both kinds in the middle of their lives: the engine has computed the prompts of all."""
    num_tokens = (NUM_STREAMS + NUM_WHOLE) * len(LONG["prompt"][0])
    computed = (await gauges(port))["prompt_tokens_total"] + num_tokens
    wholes = [await begin(port, "/v1/completions", body) for _ in range(NUM_WHOLE)]
    streams = [await begin(port, "/v1/completions", body | {"stream": True}) for _ in range(NUM_STREAMS)]
    for connection in streams:
        await connection.some()
    await until_gauges(lambda now: now["prompt_tokens_total"] >= computed, port)
    return [*streams, *wholes]


def outcome(answer: Answer | None) -> str:
    """ "complete", or the code of the one error that the client was told."""
    assert answer is not None, "closed without an answer"
    if answer.status != 200:
        return str(answer.json()["error"]["code"])
    if not answer.body.startswith(b"data: "):
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        return "complete"
    *_, last = events = answer.events()
    errors = [event for event in events if "error" in event]
    assert errors in ([], [last]), "an error is the last event"
    return str(last["error"]["code"]) if errors else "complete"


def test_sigterm_under_load(tmp_path: Path) -> None:
    """What can finish in time does, the rest is told once; the exit code is that of an orderly end."""
    with running_server(tmp_path, "--speech", "off", "--drain-timeout", "6") as server:

        async def run() -> list[Answer | None]:
            short = await under_load(port_of(server), LONG | {"max_tokens": 8})
            long = await under_load(port_of(server), LONG | {"max_tokens": 30_000})
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*(connection.answer() for connection in (*short, *long)))

        answers = [outcome(answer) for answer in asyncio.run(run())]
        assert server.process.wait(LIMIT_S) == 0
    count = NUM_STREAMS + NUM_WHOLE
    assert answers == ["complete"] * count + ["draining"] * count


@pytest.mark.parametrize(
    ("role", "options"),
    [(ENGINE, ("--speech", "off")), (SPEECH, ()), (RANK, ("--speech", "off", "--tp", "2"))],
)
def test_killed_worker_is_one_error_for_each_request(tmp_path: Path, role: str, options: tuple[str, ...]) -> None:
    with running_server(tmp_path, *options) as server:

        async def run() -> list[Answer | None]:
            half = await Connection.open(port_of(server))
            await half.send(post_json("/v1/completions", LONG)[:-10])
            connections = await under_load(port_of(server), LONG | {"max_tokens": 30_000})
            [pid] = pids_of(server.process.pid, role)
            os.kill(pid, signal.SIGKILL)
            killed_s = time.perf_counter()
            async with asyncio.timeout(LIMIT_S):
                found = await asyncio.gather(*(connection.answer() for connection in (*connections, half)))
            print(f"{role}: {len(found)} requests told within {time.perf_counter() - killed_s:.2f} s")
            return found

        answers = [outcome(answer) for answer in asyncio.run(run())]
        assert answers == ["engine_failed"] * (NUM_STREAMS + NUM_WHOLE + 1)
        assert server.process.wait(LIMIT_S) == 1
        assert "process ended" in server.log.read_text()


# --- disks


def engine_with(cache: Path, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m engine` that has to write its model first, on a disk that holds so much."""
    limit = None if limit_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes,) * 2)
    command = (sys.executable, "-m", "engine", "--port", "0", "--cache-dir", str(cache))
    return subprocess.run(command, capture_output=True, text=True, timeout=3 * LIMIT_S, check=False, preexec_fn=limit)


def test_full_disk_under_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = engine_with(cache, 100_000)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert last.startswith(f"error: cannot keep the embedded model in {cache} (File too large)")
    assert "--cache-dir" in last
    assert list(cache.iterdir()) == []  # nothing that a later start would take for a model


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where the folder should be; the permissions of a folder would not stop root."""
    (tmp_path / "file").write_text("")
    done = engine_with(tmp_path / "file" / "cache")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: cannot keep the embedded model in")


def test_full_disk_under_results(tmp_path: Path) -> None:
    """The harness says so and what it had written stays readable."""
    with running_server(tmp_path, "--speech", "off") as server:
        command = (
            *(str(Path(sys.executable).parent / "ming-eval"), "sweep", "--backend", f"x={server.url}"),
            *("--concurrency", "2", "--max-tokens", "4", "--out", str(tmp_path / "results")),
        )
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=3 * LIMIT_S,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000)),
        )
        assert server.chat("Hello", max_tokens=2)[0] == 200
    [run] = (tmp_path / "results").iterdir()
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"ming-eval: cannot write {run / 'requests.jsonl'}: ")
    *whole, _cut = (run / "requests.jsonl").read_text().split("\n")
    assert all(json.loads(line) for line in whole)
    assert json.loads((run / "manifest.json").read_text())
