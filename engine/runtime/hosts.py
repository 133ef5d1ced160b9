"""Tensor-parallel ranks over several hosts, as `torchrun` started them.

Rank 0 schedules and hands every step to the others as a broadcast of bytes (msgpack in a uint8 tensor, never code)
over a gloo group of its own, then runs it itself; all meet in the model's collectives. While nothing runs, a
heartbeat goes the same way, so that each side notices within seconds that the other is gone.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import msgspec
import torch
import torch.distributed as dist

from engine.config import EngineConfig, HostRank
from engine.core.request import Step, StepResult
from engine.errors import RANK_DIED, ConfigError, EngineError, WorkerDied
from engine.parallel import TensorParallel
from engine.runtime.build import LoadedEngine, load_engine
from engine.runtime.model_runner import Launched, LocalRunner, ModelRunner
from engine.runtime.ranks import RENDEZVOUS_TIMEOUT

log = logging.getLogger(__name__)

CONTROL_TIMEOUT = timedelta(minutes=5)  # longer than any step: a host that says nothing for so long is lost
HEARTBEAT_S = 3.0
_FIRST_BYTES = 16 << 10  # one broadcast carries the length and, mostly, everything
_HEADER_BYTES = 8
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Step | None)


class Control:
    """Messages from rank 0 to all others, in order: a step, None as the heartbeat, and an empty one at the end."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)

    def send(self, body: bytes) -> None:
        """Rank 0: to everyone."""
        data = len(body).to_bytes(_HEADER_BYTES, "big") + body
        first = torch.zeros(_FIRST_BYTES, dtype=torch.uint8)
        head = torch.frombuffer(bytearray(data[:_FIRST_BYTES]), dtype=torch.uint8)
        first[: len(head)] = head
        dist.broadcast(first, 0, group=self._group)
        if len(data) > _FIRST_BYTES:
            rest = torch.frombuffer(bytearray(data[_FIRST_BYTES:]), dtype=torch.uint8)
            dist.broadcast(rest, 0, group=self._group)

    def receive(self) -> bytes:
        """The others: the next message."""
        first = torch.empty(_FIRST_BYTES, dtype=torch.uint8)
        dist.broadcast(first, 0, group=self._group)
        data = first.numpy().tobytes()
        length = int.from_bytes(data[:_HEADER_BYTES], "big")
        body = data[_HEADER_BYTES : _HEADER_BYTES + length]
        if len(body) < length:
            rest = torch.empty(length - len(body), dtype=torch.uint8)
            dist.broadcast(rest, 0, group=self._group)
            body += rest.numpy().tobytes()
        return body


class HostGroup:
    """The other ranks, seen from rank 0."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._last_s = time.monotonic()
        self._closed = False
        self._parent = os.getppid()
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
        atexit.register(self.close)

    def send(self, step: Step | None) -> None:
        """Hand a step to every other rank, or None as a sign of life."""
        with self._lock:
            if not self._closed:
                self._control.send(_encoder.encode(step))
                self._last_s = time.monotonic()

    def close(self) -> None:
        """Let the ranks go; not where this process only ends because its server died, so that they report it."""
        time.sleep(0.1)  # the kernel closes a dead server's socket a moment before it gives its children away
        with self._lock:
            if not self._closed and os.getppid() == self._parent:
                self._control.send(b"")
            self._closed = True

    def _beat(self) -> None:
        while not self._closed:
            time.sleep(HEARTBEAT_S)
            if time.monotonic() - self._last_s < HEARTBEAT_S:
                continue
            try:
                with lost_rank():
                    self.send(None)
            except WorkerDied as error:
                log.critical("%s", error)
                os._exit(RANK_DIED)  # the main thread may be inside a collective that will never end


class HostsRunner:
    """The scheduler's `Runner` over all hosts; results are rank 0's, which every rank computes alike."""

    def __init__(self, group: HostGroup, local: LocalRunner) -> None:
        self._group = group
        self._local = local

    def submit(self, step: Step) -> None:
        """Start a step everywhere."""
        with lost_rank():
            self._group.send(step)
            self._local.submit(step)

    def collect(self) -> StepResult:
        """Wait for the oldest step."""
        with lost_rank():
            return self._local.collect()


@contextmanager
def lost_rank() -> Iterator[None]:
    """Broken connections between ranks as what they mean.

    Raises:
        WorkerDied: another rank cannot be reached any more.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's errors have no class of their own
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        reason = re.sub(r"^\[[^]]*\] ", "", str(error)).split(". ")[0]  # without the place in gloo's source
        raise WorkerDied(f"a rank on another host is gone; the engine cannot go on ({reason})") from None


def lead(config: EngineConfig, place: HostRank) -> tuple[LoadedEngine, HostsRunner]:
    """Rank 0: meet the others, load, and be ready to hand out steps.

    Raises:
        ConfigError: configuration and machine do not allow it.
        WeightError: the checkpoint does not fill the model.
        WorkerDied: another rank did not come, or is gone.
    """
    with lost_rank():
        loaded, control = _join(config, place)
    return loaded, HostsRunner(HostGroup(control), LocalRunner(loaded.runner))


def follow(config: EngineConfig, place: HostRank) -> int:
    """Any other rank's life: load, then run steps until rank 0 ends; returns the exit code."""
    try:
        with lost_rank():
            loaded, control = _join(config, place)
            log.info("rank %d of %d follows", place.rank, place.size)
            _run_steps(loaded.runner, control)
    except WorkerDied as error:
        log.critical("rank %d: %s", place.rank, error)
        os._exit(RANK_DIED)  # torch's process group would wait for ranks that are gone
    except EngineError as error:
        log.critical("rank %d: %s", place.rank, error)
        os._exit(2)
    log.info("rank 0 has ended: rank %d ends with it", place.rank)
    os._exit(0)


def _run_steps(runner: ModelRunner, control: Control) -> None:
    under_way: deque[Launched] = deque()
    while body := control.receive():
        step = _decoder.decode(body)
        # Rank 0 has read the tokens of all but one earlier step when it submits another, and of all when nothing runs.
        while len(under_way) > (step is not None):
            runner.finish(under_way.popleft())
        if step is not None:
            under_way.append(runner.launch(step))


def _join(config: EngineConfig, place: HostRank) -> tuple[LoadedEngine, Control]:
    if place.master in _LOOPBACK:
        # Without this gloo binds to whatever address the host name resolves to.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method="env://",
        rank=place.rank,
        world_size=place.size,
        timeout=RENDEZVOUS_TIMEOUT,
    )
    _check_alike(config, place)
    loaded = load_engine(config, TensorParallel(place.rank, place.size))
    _compare(loaded.info.checkpoint_digest.encode(), place, "the checkpoint in --model")
    return loaded, Control()


def _check_alike(config: EngineConfig, place: HostRank) -> None:
    """The ranks must have been given the same options; where the files lie may differ."""
    plain = replace(config, model="", processor=None, num_threads=None, torchrun=None)
    _compare(_encoder.encode(plain), place, "an option of the engine")


def _compare(mine: bytes, place: HostRank, what: str) -> None:
    """Raise on every rank that has something else than rank 0.

    Raises:
        ConfigError: this one has.
    """
    padded = torch.zeros(4096, dtype=torch.uint8)
    padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    theirs = padded.clone()
    dist.broadcast(theirs, 0)
    if not torch.equal(theirs, padded):
        raise ConfigError(f"{what} differs between rank 0 and rank {place.rank}: start all hosts with the same command")
